"""Folds over the keys of a group: statistics of a row and a group, by blocks of their own.

    sum(l if group(l) == group(j): exp(s[l]))      at the key j: what all keys of its group share
    emit mass[i, c] = sum(j if j // n == c: w)     one number for each block of keys

No loop over keys knows at a key what its group will have. So a statistic is an operator whose rows
are pairs of a group and a row, and whose mask says which keys are of the group: tiles of other
groups are left out as any mask's are. Whoever asks for it reads it at the group (`stat[group(j),
i]`), and all that is known of masks, tiles, reads at places and derivatives holds for it.

    sum(exp(e))        as the maximum of e, and the sum relative to it: a logarithm of the sum
                       would lose what a large maximum leaves of its digits
    sum(r * exp(e))    as that, and the mean of r under the weights exp(e)

What a statistic is made of besides (the denominator of a row's softmax) is a number of the row: it
is an operator of rows alone.

does      finds such folds in a block's equations; makes the operators; says where each is read
needs     a checked Spec; groups that `groups.numbered` can count
does not  part a fold whose terms know the key that asks; hold statistics of more rows than called
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import reduce

from attnc.expressions.canonical import canonical, set_apart
from attnc.expressions.index import Axis, Index
from attnc.expressions.naming import numbered_name
from attnc.expressions.tree import (
    TRUE,
    Array,
    Expr,
    Kind,
    call,
    fold,
    number,
    position,
    postorder,
    read,
    rewrite,
    substitute,
)
from attnc.fallbacks import written_out
from attnc.graph import conjuncts
from attnc.passes.factors import ONE, Factors, factors_of
from attnc.passes.groups import Fold, Groups, grouped_fold
from attnc.passes.parted import Reach
from attnc.spec import Block, Definition, KeySource, Repeat, Spec


def with_group_statistics(spec: Spec) -> Spec | None:
    """The Spec with statistics of groups as blocks of their own; None where it asks for none, or
    for groups that nothing counts."""
    made = Statistics(spec)
    root = made.parted(spec.root)
    if not made.blocks:
        return None
    named = {one.array.name: one for one in _definitions(root)}
    axes = (*spec.axes, *made.axes)
    return replace(spec, root=root, axes=axes, definitions={**spec.definitions, **named})


def _definitions(root: Block) -> Iterable[Definition]:
    for one in root.statements:
        if isinstance(one, Block):
            yield from _definitions(one)
        elif isinstance(one, Definition):
            yield one
    yield from (root.result, *root.emits, *root.offered)


@dataclass
class Statistics:
    """The operators of one Spec's groups: `blocks` by the name of the block that asks for them."""

    spec: Spec
    blocks: list[Block] = field(default_factory=list)
    axes: list[Axis] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reach = Reach(self.spec)
        self.taken = {*self.spec.definitions, *(one.name for one in self.spec.inputs)}
        self.taken |= {one.name for one in self.spec.numbers}
        self.taken |= {axis.name for axis in self.spec.axes}

    def fresh(self, word: str) -> str:
        """A name that nothing of the Spec has."""
        return numbered_name(word, self.taken)

    def parted(self, block: Block) -> Block:
        """The block, and those within it, reading statistics of groups."""
        statements = tuple(
            self.parted(one) if isinstance(one, Block) else one for one in block.statements
        )
        block = replace(block, statements=statements)
        counted = block.rows and any(len(source.keys) == 1 for source in block.sources)
        if not counted or block.states:  # what rows carry is known row by row
            return block
        before = len(self.blocks)
        own = Asking(self, block)
        changed = own.block()
        made = tuple(self.blocks[before:])
        return replace(changed, statements=(*made, *changed.statements))


class Asking:
    """A block that asks for statistics of its groups."""

    def __init__(self, made: Statistics, block: Block) -> None:
        self.made = made
        self.within = block
        self.sources = {s.keys[0].axis: s for s in block.sources if len(s.keys) == 1}
        every = (a for s in block.sources for a in (s.mask, s.score, s.weight) if a is not None)
        self.clauses = {array.name: array for array in every}
        self.row_axes = {row.axis for row in block.rows}
        order = block.result.array.axes
        self.outer = [axis for axis in order if axis.name == "b" or axis.name == "h"]
        self.first = {one.array.name: one for one in _definitions(block)}
        self.done: dict[str, Definition] = {}
        self.known: dict[bytes, tuple[Expr, Groups | None]] = {}

    def block(self) -> Block:
        """The block with every equation changed."""

        def changed(one: Definition | Repeat | Block) -> Definition | Repeat | Block:
            return self.changed(one) if isinstance(one, Definition) else one

        block = self.within
        return replace(
            block,
            statements=tuple(map(changed, block.statements)),
            result=self.changed(block.result),
            emits=tuple(map(self.changed, block.emits)),
            offered=tuple(map(self.changed, block.offered)),
        )

    def changed(self, definition: Definition) -> Definition:
        name = definition.array.name
        if name not in self.done:
            self.done[name] = definition  # what reads itself reads it as it is
            expr = rewrite(definition.expr, self._node)
            self.done[name] = replace(definition, expr=expr)
        return self.done[name]

    def _node(self, node: Expr) -> Expr:
        found = grouped_fold(node, self.sources, self.row_axes)
        if found is None:
            return node
        return self._statistic(found) or node

    # ------------------------------------------------------------------------------ one statistic

    def _statistic(self, asked: Fold) -> Expr | None:
        """What stands for the fold; None where the groups cannot be counted."""
        (asking,) = asked.asking
        unnamed = {asking: position(Index(f"{asking.name} asks", asking.axis))}
        key = canonical(substitute(asked.node, unnamed)).digest
        if key in self.known:
            value, groups = self.known[key]
            assert groups is not None
            return groups.read(value, asked)
        groups = Groups.of(asked, self.made.fresh)
        if groups is None:
            return None
        if groups.made:
            self.made.axes.append(groups.index.axis)
        value = Statistic(self, asked, groups).value()
        self.known[key] = value, groups
        return groups.read(value, asked)

    def inlined(self, expr: Expr) -> Expr:
        """The expression with equations that are made of clauses written out: what is left of
        clauses is masks and scores."""
        plain = {s.mask.name for s in self.sources.values() if s.mask}
        plain |= {s.score.name for s in self.sources.values() if s.score}

        def change(node: Expr) -> Expr:
            if node.op != "read" or node.array.name in plain:
                return node
            definition = self.first.get(node.array.name)
            if definition is None or not self.made.reach.of([node]) & set(self.clauses):
                return node
            body = set_apart(self.changed(definition).expr)
            moves = dict(zip(definition.array.indices, node.args, strict=True))
            return rewrite(substitute(body, moves), change)

        return rewrite(expr, change)

    def without_row_values(self, expr: Expr) -> Expr:
        """The expression with folds over keys, and roots, that are one number a row as reads."""
        known: dict[bytes, Expr] = {}
        stack = [expr]
        while stack:
            node = stack.pop()
            axes = {index.axis for index in node.free}
            rows = self.within.rows[-1].axis in axes and axes.isdisjoint(self.sources)
            folds = node.op == "fold" and node.bound[0].axis in self.sources
            if rows and (node.op == "solve" or (folds and len(node.bound) == 1)):
                known[node.digest] = self._row_value(node)
            else:
                stack.extend(node.args)
        return rewrite(expr, lambda node: known.get(node.digest, node)) if known else expr

    def _row_value(self, node: Expr) -> Expr:
        """One number of a row: a statistic without groups."""
        if node.digest not in self.known:
            (axis,) = {i.axis for n in postorder(node) for i in n.bound if i.axis in self.sources}
            bound = next(i for n in postorder(node) for i in n.bound if i.axis is axis)
            self.known[node.digest] = Statistic(self, Fold(node, bound, ()), None).value(), None
        return self.known[node.digest][0]


class Statistic:
    """The operator of one statistic: a block whose rows are a group and the rows, or the rows."""

    def __init__(self, asking: Asking, asked: Fold, groups: Groups | None) -> None:
        self.asking, self.asked, self.groups = asking, asked, groups
        node = asked.node
        self.name = asking.made.fresh("group" if groups else "row")
        free = node.free if groups is None else node.free - asked.asking
        self.key = asked.bound
        own = {i.axis: i for i in sorted(free, key=lambda i: i.number, reverse=True)}
        self.outer = tuple(own[axis] for axis in asking.outer if axis in own)
        self.rows = tuple(own[row.axis] for row in asking.within.rows if row.axis in own)
        used = {*self.outer, *self.rows, self.key}
        self.widths = tuple(sorted(free - used, key=lambda i: (i.name, i.number)))
        self.lead = () if groups is None else (groups.index,)
        self.over = (*self.outer, *self.lead, *self.rows)
        self.source = asking.sources[self.key.axis]
        self.mask = self._array("mask", "bool")
        self.score = self._array("score", "real")
        self.scored, self.masked = False, asked.node.op == "solve"
        self.outputs: list[Definition] = []

    def _array(self, clause: str, kind: Kind) -> Array:
        name = f"{self.name}.{self.key.axis.name}.{clause}"
        return Array(name, (*self.over, self.key), kind, "definition", self.asked.node.span)

    def value(self) -> Expr:
        """What stands for the fold; the block is among those that are made."""
        node, asking = self.asked.node, self.asking
        if node.op == "solve":
            body = self._own(asking.inlined(node))
            found = self._output("root", body)
            return self._close(found, TRUE, body)
        given = self.asked.conditions if self.groups else conjuncts(node.args[0])
        parts = [part for one in given for part in conjuncts(asking.inlined(one))]
        body = written_out(asking.without_row_values(asking.inlined(node.args[1])))
        parts = [asking.without_row_values(part) for part in parts]
        visible = [self._formula(part) for part in parts]
        mask = self.source.mask
        self.masked = any(n.op == "read" and n.array == mask for n in postorder(*parts))
        if self.groups is not None:
            visible.append(self.groups.test)
        test = every([part for one in visible for part in conjuncts(one)])
        here = read(self.mask, map(position, self.mask.indices))
        own = self._own(body)
        if node.op in ("argmax", "argmin"):
            return self._place(own, here, test)
        return self._folded(own, here, test)

    def _place(self, body: Expr, here: Expr, test: Expr) -> Expr:
        node = self.asked.node
        found = Expr(node.op, (here, body), node.attr, node.kind, node.span)
        extremum = fold("max" if node.op == "argmax" else "min", (self.key,), body, here)
        return self._close(self._output("place", found), test, extremum)

    def _folded(self, body: Expr, here: Expr, test: Expr) -> Expr:
        node = self.asked.node
        plain = fold(node.monoid, (self.key,), body, here, node.span)
        whole = factors_of(body) if node.monoid == "sum" and body.kind == "real" else Factors()
        row, pair = whole.split(lambda factor: self.key not in factor.free)
        power, rest = _power_and_rest(pair)
        by_row, row = _power_and_rest(row)
        if power is None:
            first = plain if plain.kind == "real" else call("to_real", plain)
            return self._close(self._output("stat", plain), test, first)
        top = call("stop", fold("max", (self.key,), power, here))
        weights = fold("sum", (self.key,), call("exp", power), here)
        none = call("eq", top, number(float("-inf")))
        mass = call("where", none, number(0.0), call("div", weights, call("exp", top)))
        above = self._output("top", top)
        found = self._output("mass", mass)
        above = above if by_row is None else call("add", above, by_row)
        found = call("mul", found, call("exp", above))
        if rest.expr != ONE:
            sums = fold("sum", (self.key,), call("mul", call("exp", power), rest.expr), here)
            none = call("eq", weights, number(0.0))
            mean = call("where", none, number(0.0), call("div", sums, weights))
            found = call("mul", self._output("mean", mean), found)
        return self._close((Factors((found,)) * row).expr, test, mass)

    # ------------------------------------------------------------------------- clauses and outputs

    def _formula(self, expr: Expr) -> Expr:
        """An expression with the asking block's mask written out: its keys are those of a score."""
        mask = self.source.mask

        def change(node: Expr) -> Expr:
            if node.op != "read" or mask is None or node.array.name != mask.name:
                return self._own_node(node)
            self.scored = self.scored or self.source.score is not None
            definition = self.asking.changed(self.asking.first[mask.name])
            moves = dict(zip(mask.indices, node.args, strict=True))
            return rewrite(self.asking.inlined(substitute(definition.expr, moves)), change)

        return rewrite(expr, change)

    def _own(self, expr: Expr) -> Expr:
        """A term with the asking block's clauses as the operator's own: its mask where that is
        among what keys are asked for, else written out."""
        mask = self.source.mask
        if not self.masked:
            return self._formula(expr)

        def change(node: Expr) -> Expr:
            if node.op == "read" and mask is not None and node.array.name == mask.name:
                self.scored = self.scored or self.source.score is not None
                return self._read_own(self.mask, mask, node)
            return self._own_node(node)

        return rewrite(expr, change)

    def _own_node(self, node: Expr) -> Expr:
        score = self.source.score
        if node.op != "read" or score is None or node.array.name != score.name:
            return node
        self.scored = True
        return self._read_own(self.score, score, node)

    def _read_own(self, own: Array, clause: Array, node: Expr) -> Expr:
        at = {index.axis: place for index, place in zip(clause.indices, node.args, strict=True)}
        return read(own, [at.get(i.axis, position(i)) for i in own.indices], node.span)

    def _output(self, word: str, expr: Expr) -> Expr:
        """A number that the operator gives, in the type of statistics, and the read of it where it
        is asked for."""
        over = (*self.over, *self.widths)
        array = Array(f"{self.name}.{word}", over, expr.kind, "output", self.asked.node.span)
        self.outputs.append(Definition(array, expr, self.asked.node.span))
        return read(array, map(position, over))

    def _close(self, found: Expr, test: Expr, result: Expr) -> Expr:
        """Makes the block; `found` stands for the fold."""
        if test == TRUE and self.source.mask is not None and self.asked.node.op == "solve":
            at = {i.axis: position(i) for i in (*self.over, self.key)}
            mask = self.source.mask
            test = self._formula(read(mask, [at[i.axis] for i in mask.indices]))
        lines = [Definition(self.mask, test, self.asked.node.span)]
        score = self.source.score
        if self.scored and score is not None:
            definition = self.asking.changed(self.asking.first[score.name])
            axes = {index.axis: position(index) for index in self.score.indices}
            moves = {index: axes[index.axis] for index in score.indices}
            formula = self.asking.inlined(substitute(definition.expr, moves))
            here = read(self.mask, map(position, self.mask.indices))
            lines.append(Definition(self.score, self._own(formula), definition.span, here))
        source = KeySource((self.key,), self.mask, self.score if self.scored else None, None)
        over = (*self.over, *self.widths)
        array = Array(self.name, over, "real", "definition", self.asked.node.span)
        self.asking.made.blocks.append(
            Block(
                self.name,
                (*self.lead, *self.rows),
                (source,),
                tuple(lines),
                (),
                (),
                Definition(array, result, self.asked.node.span),
                (),
                tuple(self.outputs),
                self.asked.node.span,
            )
        )
        return found


def every(tests: list[Expr]) -> Expr:
    """Whether all tests hold."""
    return reduce(lambda a, b: call("and", a, b), tests) if tests else TRUE


def _power_and_rest(pair: Factors) -> tuple[Expr | None, Factors]:
    """exp(e) * r as e and r; None for e where no factor is an exponential."""
    above = [f.args[0] for f in pair.above if f.op == "exp"]
    below = [f.args[0] for f in pair.below if f.op == "exp"]
    if not above and not below:
        return None, pair
    power = reduce(lambda a, b: call("add", a, b), above) if above else number(0.0)
    power = reduce(lambda a, b: call("sub", a, b), below, power)
    rest = Factors(
        tuple(f for f in pair.above if f.op != "exp"),
        tuple(f for f in pair.below if f.op != "exp"),
        pair.negative,
    )
    return power, rest


__all__ = ["with_group_statistics"]
