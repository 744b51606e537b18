"""Row values of a derivative: which are saved by the forward, which are computed before the loops.

A pair's value in a backward is a formula of the pair and of row values: sums over the keys of a row
that are finished (a total, the output), and sums over widths of such (delta). None of them is
computed again for a pair.

    saved        depends on the operator's inputs alone: an output of the forward itself where it is
                 equal to one, else a further output
    passed       depends on cotangents too and folds over keys: a loop over keys before the others
    summed       a sum over a width of cotangents and a saved row vector, as <g_i, out_i>: the sum
                 over the keys of what pairs compute again, sum_j p_ij <g_i, v_j>, in a loop before
                 the others (`out` is rounded to the dtype of the call), of terms less <g_i, out_i>
                 where the weights' sum is 1, or that less a sink's share (means)
    prepared     depends on cotangents, folds over widths only: a map

Values of keys that fold over rows are finished before, by loops that hold keys (see column_values).

does      replaces row values in expressions over the canonical indices by reads
needs     the forward's reductions
does not  choose kernels for pairs, or the arrays of what is kept (see kept_rows)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attnc.expressions.canonical import canonical
from attnc.expressions.index import Index
from attnc.expressions.tree import (
    TRUE,
    Array,
    Expr,
    fold,
    position,
    postorder,
    read,
    substitute,
)
from attnc.passes.column_values import with_columns
from attnc.passes.exponents import scaled
from attnc.passes.factors import Factors, factors_of, total
from attnc.passes.finish import Target
from attnc.passes.hoist import Names
from attnc.passes.kept_rows import KeptRows
from attnc.passes.means import less
from attnc.passes.powers import formed
from attnc.passes.refusals import refuse
from attnc.passes.roles import Roles
from attnc.passes.simplify import make, simplify_node, topdown
from attnc.passes.width_sums import by_source, exchanged


@dataclass
class RowValues:
    """Replaces row values by reads, and collects what must be saved, passed and prepared.

    saved       what the forward keeps, None where nothing is saved
    passed      what loops over keys finish before the others
    later       names of cotangents: what depends on one is not saved
    outputs     outputs of the forward, by the digest of their formula: arrays to read
    summing     whether a loop over the keys may sum what pairs compute again (`_summed`)
    """

    roles: Roles
    names: Names
    saved: KeptRows | None
    passed: KeptRows
    later: frozenset[str]
    outputs: dict[bytes, Array] = field(default_factory=dict)
    summing: bool = True
    reads: dict[str, Array] = field(default_factory=dict)
    summed: dict[bytes, tuple[Array, Expr]] = field(default_factory=dict)
    prepared: dict[bytes, tuple[Array, Expr]] = field(default_factory=dict)
    named: dict[bytes, Expr] = field(default_factory=dict)  # canonical forms: often asked again

    @property
    def targets(self) -> list[Target]:
        """All that is kept."""
        return [*self.saved_targets, *self.passed.targets]

    @property
    def saved_targets(self) -> list[Target]:
        """What the forward keeps."""
        return [] if self.saved is None else self.saved.targets

    # ----------------------------------------------------------------------------- finding

    def exchange(self, expr: Expr, pair: bool = True) -> Expr:
        """The expression with row values as reads. `pair`: it is evaluated for each pair, so that
        sums over widths of a row are prepared too."""
        whole = self._canonical(expr)
        if not pair:
            return with_columns(self._folded(whole), self.passed.reductions)
        folded = self._folded(topdown(whole, self._summed))
        found = self._prepared(with_columns(folded, self.passed.reductions))
        self._check_compared(found)
        return found

    def _check_compared(self, expr: Expr) -> None:
        """Refuses to ask, in a sum of a pair over outer axes, which key has another row's maximum:
        scores in such a sum are rounded otherwise than those that the row's own loop compared."""
        kept = {target.array.name for target in self.targets} | set(self.reads)
        for node in postorder(expr):
            outer = {i for i in node.bound if self.roles.of(i.axis) == "grid"}
            tests = (n for n in postorder(*node.args) if n.op in ("eq", "ne")) if outer else ()
            for test in tests:
                if not test.free & outer or any(side.op == "number" for side in test.args):
                    continue
                if any(n.op == "read" and n.array.name in kept for n in postorder(*test.args)):
                    raise refuse("map_stage: the keys that have a row's maximum, summed over rows")

    def _canonical(self, expr: Expr) -> Expr:
        found = self.named.get(expr.digest)
        if found is None:
            found = self.named[expr.digest] = canonical(expr)
        return found

    def _folded(self, expr: Expr) -> Expr:
        """Row values with folds over keys."""
        return topdown(expr, self._row_value)

    def _row_value(self, node: Expr) -> Expr | None:
        if not self.roles.folds_keys(node):
            return node
        if not self.roles.is_row(node) or node.kind == "int":
            return None
        moves = self._alien(node)
        if moves:  # of a row, or a head, within a fold over these
            own = set(moves.values())
            if node.free & own or len(own) < len(moves):
                return None
            found = self._row_value(substitute(node, {o: position(n) for o, n in moves.items()}))
            back = {new: position(old) for old, new in moves.items()}
            return None if found is None else substitute(found, back)
        if not self.is_later(node):
            return self._saved(node)
        if node.op in ("mul", "div", "neg") and node.kind == "real":
            return self._product(node)
        if not self._walks(node):
            return None  # parts of it may be saved
        return self._passed(node)

    def _alien(self, node: Expr) -> dict[Index, Index]:
        """The indices of rows and outer axes that a fold around the node binds, by those of the
        kernels, which arrays are read at."""
        own = {index.axis: index for index in (*self.roles.frame.grid, self.roles.frame.held)}
        return {i: own[i.axis] for i in node.free if i.axis in own and i != own[i.axis]}

    def _walks(self, node: Expr) -> bool:
        """Whether a fold over keys in the node depends on cotangents (or nothing is saved)."""
        return any(
            self.roles.folds_keys(below) and below.op == "fold" and self.is_later(below)
            for below in postorder(node)
            if below.op == "fold"
            and any(self.roles.of(index.axis) == "key" for index in below.bound)
        )

    def is_later(self, node: Expr) -> bool:
        """Whether the expression is not known when the forward runs."""
        if self.saved is None:
            return True
        return any(n.op == "read" and n.array.name in self.later for n in postorder(node))

    def _product(self, node: Expr) -> Expr:
        """Factors that are saved together, times the others. What is divided by is read as it is:
        where it is 0, of a row without keys, the quotient is formed for pairs alone."""
        factors = factors_of(node)
        known, rest = factors.split(lambda f: self.roles.folds_keys(f) and not self.is_later(f))
        known, rest = replace(known, negative=False), replace(rest, negative=factors.negative)
        if not known.above and not known.below:
            if not self._walks(node) or any(map(self.roles.folds_keys, rest.below)):
                above, below = (tuple(map(self._folded, f)) for f in (rest.above, rest.below))
                return Factors(above, below, rest.negative).expr
            return self._passed(node)
        if not any(self.roles.folds_keys(f) for f in (*rest.above, *rest.below)):
            return (Factors((self._saved(known.expr),)) * rest).expr
        above, below = (tuple(map(self._folded, f)) for f in (rest.above, rest.below))
        return (Factors((self._saved(known.expr),)) * Factors(above, below, rest.negative)).expr

    # ------------------------------------------------------------------------------- saved

    def _saved(self, node: Expr) -> Expr:
        """A read of what the forward keeps. Of a product of scalars each factor is kept, so that
        few are; where there is a width, the product."""
        assert self.saved is not None
        output = self._output(node)
        if output is not None:
            return output
        wide = self.roles.widths((node,))
        if len(wide) > 1:
            raise refuse("linear_state: a row value over two widths")
        if node.op in ("mul", "div", "neg") and node.kind == "real":
            factors = factors_of(node)
            known, rest = factors.split(self.roles.folds_keys)
            known, rest = replace(known, negative=False), replace(rest, negative=factors.negative)
            if wide and (rest.above or rest.below or rest.negative):
                return (Factors((self._saved(known.expr),)) * rest).expr
            if not wide:
                above, below = (tuple(map(self._saved, f)) for f in (known.above, known.below))
                return (Factors(above, below) * rest).expr
        if node.op == "where" and not wide:
            return simplify_node(node.with_args(tuple(map(self._folded, node.args))))
        if node.op in ("not", "and", "or"):
            return simplify_node(node.with_args(tuple(map(self._folded, node.args))))
        if node.op in ("eq", "ne") and node.args[0].kind == "real":
            return self._test(node)
        return self._kept(node, self.saved)

    def _test(self, node: Expr) -> Expr:
        """A comparison with what is read of its sides. What is 0 says the mantissa alone: the power
        beside it may be beyond all numbers of the call."""
        found = simplify_node(node.with_args(tuple(map(self._folded, node.args))))
        return scaled(found, aligning=False).collapsed()

    def _output(self, node: Expr) -> Expr | None:
        """A read of the output that the node equals as a formula of the forward's reductions."""
        if self.saved is None or node.kind != "real":
            return None
        forward = self.saved.reductions
        moves = {w: position(_plain(w)) for w in self.roles.widths((node,))}
        formula = forward.finish(substitute(node, moves))
        array = self.outputs.get(formula.digest)
        if array is None:
            return None
        forward.compared(formula)
        self.reads[array.name] = array
        given = Array(array.name, array.indices, array.kind, "input", array.span)
        places = {_plain(w).axis: w for w in self.roles.widths((node,))}
        at = [position(places.get(index.axis, index)) for index in array.indices]
        return read(given, at)

    # ------------------------------------------------------------------------------ passed

    def _passed(self, node: Expr) -> Expr:
        """A read of what a loop over keys finishes before the others run."""
        counted = node.op in ("eq", "ne") and node.args[0].kind == "int"
        truth = node.op in ("not", "and", "or", "eq", "ne", "where") and node.kind == "bool"
        if truth and not counted:
            if node.op in ("eq", "ne"):
                return self._test(node)
            return simplify_node(node.with_args(tuple(map(self._folded, node.args))))
        return self._kept(topdown(node, self._inner), self.passed)

    def _inner(self, node: Expr) -> Expr | None:
        """Bodies of folds over keys with their own row values as reads."""
        if not self.roles.folds_keys(node):
            return node
        if self.roles.is_row(node) and not self.is_later(node):
            return self._row_value(node)
        if node.op == "fold" and any(self.roles.of(i.axis) == "key" for i in node.bound):
            return node.with_args(tuple(self.exchange(arg) for arg in node.args))
        return None

    def _kept(self, node: Expr, rows: KeptRows) -> Expr:
        """Reads of what is kept for a row value, its width named as in outputs."""
        wide = self.roles.widths((node,))
        if not wide:
            return rows.value(self._canonical(node), None)
        width = _plain(wide[0])
        named = self._canonical(substitute(node, {wide[0]: position(width)}))
        return substitute(rows.value(named, width), {width: position(wide[0])})

    # ------------------------------------------------------------------------------- summed

    def _summed(self, node: Expr) -> Expr | None:
        """sum_e g_ie (sum_j w_ij v_je) as a read of sum_j w_ij (sum_e g_ie v_je), which a loop over
        the keys makes of the terms that pairs compute again: what is left of their difference from
        it is then no smaller than its rounding."""
        if self.saved is None or not self.summing or not self.roles.folds_keys(node):
            return node
        held = self.roles.frame.held
        other = next((i for i in node.free if i.axis is held.axis and i != held), None)
        if other is not None and held not in node.free:  # of a row within a fold over the rows
            found = self._summed(substitute(node, {other: position(held)}))
            return None if found is None else substitute(found, {held: position(other)})
        if not self._is_width_sum(node):
            several = sum(map(self.roles.folds_keys, node.args)) > 1
            return node if several and self.roles.is_row(node) else None  # kept as a whole
        alone = by_source(node, self.roles)
        parts = [exchanged(part, self.roles, self.is_later) for part in alone]
        if any(keyed is None for _, keyed in parts):
            return None
        whole = [keyed for rest, keyed in parts if keyed is not None and rest == Factors()]
        means = self._means(node, whole) if len(whole) == len(parts) else None
        if means is not None:
            return means
        sums = [(rest, self._kept_sum(keyed)) for rest, keyed in parts if keyed is not None]
        return total((rest * Factors((kept,))).expr for rest, kept in sums)

    def _means(self, node: Expr, sums: list[Expr]) -> Expr | None:
        """sum_e g_ie out_ie of an output that is a mean over the keys, and maybe of 0: of terms
        less that sum itself, as it is rounded."""
        given, own = factors_of(node.args[1]).split(self.is_later)
        mean = None if less(sums) is None else self._output(own.expr)
        if mean is None:
            return None
        whole = canonical(fold("sum", node.bound, (given * Factors((mean,))).expr))
        near = self._prepared_row(whole, "near")
        self.later |= {near.array.name}
        found = less(sums, near)
        assert found is not None
        if found.rest is not None:
            share = formed(self._folded(found.rest), self.roles.frame, self.names)
            near = self._prepared_row(make("sub", near, make("mul", near, share)), "near")
            self.later |= {near.array.name}
        return total((near, *map(self._kept_sum, found.sums)))

    def _kept_sum(self, keyed: Expr) -> Expr:
        """A read of a sum over keys that a loop makes for it."""
        rows = (*self.roles.frame.grid, self.roles.frame.held)
        if keyed.digest not in self.summed:
            array = Array(self.names.fresh("row_sum"), rows, "real", "workspace")
            inside = keyed.with_args(tuple(self.exchange(arg) for arg in keyed.args))
            self.summed[keyed.digest] = (array, inside)
            self.later |= {array.name}
        array, _ = self.summed[keyed.digest]
        return read(array, map(position, rows))

    def _is_width_sum(self, node: Expr) -> bool:
        """Whether it is a sum over widths, of cotangents and row values."""
        return (
            node.op == "fold"
            and node.monoid == "sum"
            and node.kind == "real"
            and node.args[0] == TRUE
            and all(self.roles.of(index.axis) == "width" for index in node.bound)
            and node.free <= frozenset((*self.roles.frame.grid, self.roles.frame.held))
            and self.is_later(node)
        )

    # ----------------------------------------------------------------------------- prepared

    def _prepared(self, expr: Expr) -> Expr:
        """Sums over widths of a row, from a workspace."""
        return topdown(expr, self._row_sum)

    def _row_sum(self, node: Expr) -> Expr | None:
        if not self.roles.folded(node):
            return node
        rows = (*self.roles.frame.grid, self.roles.frame.held)
        if node.kind != "real" or not node.free <= frozenset(rows):
            return None
        if node.op in ("mul", "div", "neg", "where", "exp", "exp2"):
            return None
        if self.roles.frame.held not in node.free:
            return None
        if node.op != "fold" and any(n.op in ("exp", "exp2") for n in postorder(node)):
            return None  # a power is formed beside the pair's own
        return self._prepared_row(node, "row_sum")

    def _prepared_row(self, node: Expr, word: str) -> Expr:
        """A read of a row value that a map makes."""
        rows = (*self.roles.frame.grid, self.roles.frame.held)
        return read(self.array_of(node, rows, word), map(position, rows))

    def array_of(self, node: Expr, over: tuple[Index, ...], word: str) -> Array:
        """What a map makes of the expression before the loops."""
        if node.digest not in self.prepared:
            array = Array(self.names.fresh(word), over, "real", "workspace")
            self.prepared[node.digest] = (array, node)
        return self.prepared[node.digest][0]


def _plain(width: Index) -> Index:
    """The width as outputs name it."""
    return Index(width.axis.name, width.axis, 0)
