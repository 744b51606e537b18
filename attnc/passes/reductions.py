"""The folds over keys of an output, each once, and the output as a formula of their results.

`Reductions.finish(expr)` goes through an output from the leaves up. A fold over a key axis becomes
reductions whose bodies depend on the pair alone, and `value` nodes that stand for their results;
row factors have left the fold. A row value that cannot leave becomes a `Pending`: it is computed
and stored by a kernel that runs before (two passes over the keys, or more).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attnc.expressions.canonical import rename_bound
from attnc.expressions.index import Index
from attnc.expressions.tree import (
    Expr,
    fold,
    number,
    position,
    postorder,
    rewrite,
    substitute,
    value,
)
from attnc.graph import conjuncts
from attnc.passes.bottom import implied
from attnc.passes.column_values import Column, with_columns
from attnc.passes.constants import identity
from attnc.passes.exponents import Scaled, scaled
from attnc.passes.factors import ONE, Factors, factors_of
from attnc.passes.fold_results import Part, Pending, Reduction, arrays_of
from attnc.passes.frame import Frame, widths_of
from attnc.passes.hoist import Names
from attnc.passes.linear import Linear
from attnc.passes.nesting import nesting
from attnc.passes.powers import apart, at_hand, formed
from attnc.passes.refusals import check_supported, refuse
from attnc.passes.row_factors import is_finite, times_row
from attnc.passes.scans import scan_of
from attnc.passes.separate import Separation, Term, exchange, finished, row_parts
from attnc.passes.simplify import all_of, make, simplify_node
from attnc.passes.sources import SEEN, join_sources
from attnc.passes.unknowns import Solve, solve_of


@dataclass(frozen=True)
class Keys:
    """The keys of one fold: the walked index, what is to be tested of them, their domain."""

    walked: Index
    conditions: tuple[Expr, ...]
    domain: str


@dataclass
class Reductions:
    """Collects the reductions of an operator in a frame (see the module).

    bounded    exponents are relative to row values that are at hand, as in a backward: powers are
               formed as they stand, under no running reference
    relative   names of arrays that hold exponents of rows: what is relative to one is no greater"""

    frame: Frame
    bounded: bool = False
    relative: set[str] = field(default_factory=set)
    entries: dict[str, Reduction] = field(default_factory=dict)
    pending: dict[bytes, Pending] = field(default_factory=dict)
    known: dict[tuple[object, ...], str] = field(default_factory=dict)
    aliases: dict[str, tuple[str, Index, Index]] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    domains: dict[str, tuple[Index, tuple[Expr, ...]]] = field(default_factory=dict)
    solves: dict[bytes, Solve] = field(default_factory=dict)
    columns: dict[bytes, Column] = field(default_factory=dict)
    keyed: dict[bytes, Expr] = field(default_factory=dict)  # reads of columns: often asked again

    def finish(self, expr: Expr) -> Expr:
        """The output as an expression of row values, with `value` nodes for the reductions, and
        reads of the roots of solves."""
        whole = rewrite(with_columns(rewrite(expr, self._root), self), self._node)
        if any(node.op == "value" and node.attr in self.aliases for node in postorder(whole)):
            whole = rewrite(whole, self._unalias)
        return join_sources(whole, self)

    def apart(self, frame: Frame) -> Reductions:
        """Reductions of other loops of the same operator: names are shared, nothing else."""
        return Reductions(frame, names=self.names)

    def _root(self, node: Expr) -> Expr:
        """A read of a row's root for its solve."""
        if node.op != "solve" or not node.free <= self.frame.rows:
            return node
        if node.digest not in self.solves:
            self.solves[node.digest] = solve_of(node, self.frame, self.names)
        return self.solves[node.digest].root

    # -------------------------------------------------------------------------------- folds

    def _node(self, node: Expr) -> Expr:
        if node.op == "fold":
            if any(self.frame.walker(index.axis) for index in node.bound):
                return self._key_fold(node)
            if any(index.axis is self.frame.held.axis for index in node.bound):
                raise refuse("column_norm: a fold over the rows")
            return simplify_node(self._width_fold(node))
        if node.op in ("argmax", "argmin") and self.frame.walker(node.bound[0].axis):
            return self._place_of_extremum(node)
        check_supported((node,))
        return simplify_node(node)

    def _place_of_extremum(self, node: Expr) -> Expr:
        """The first key at which the extremum stands, -1 over nothing: a pass finds the extremum,
        and the next the least of the keys that are equal to it. Both form a pair's number alike, so
        that equal means the same bits."""
        (condition, key), monoid = node.args, "max" if node.op == "argmax" else "min"
        top = self._key_fold(fold(monoid, node.bound, key, condition))
        self.compared(top)
        place = make("to_real", position(node.bound[0]))
        there = make("and", condition, make("eq", key, top))
        first = self._key_fold(fold("min", node.bound, place, there))
        none = make("lt", first, number(float("inf")))
        return make("where", none, make("to_int", first), number(-1))

    def compared(self, expr: Expr) -> None:
        """Pairs are compared with the extrema that the expression is made of: each is carried as
        one of their numbers. Raises UnsupportedError where a pair's number is made of finished
        values, for it may be formed in more than one way."""
        for below in postorder(expr):
            entry = self.entries.get(str(below.attr)) if below.op == "value" else None
            if entry is None or entry.monoid not in ("max", "min") or entry.kind != "real":
                continue
            if entry.level:
                raise refuse("weight_edit: what is compared with a maximum of weights")
            self.entries[entry.name] = replace(entry, exact=True)

    def _key_fold(self, node: Expr) -> Expr:
        bound = [index for index in node.bound if index not in self.frame.around]
        if len(bound) != 1:
            raise refuse("multi_term_score: keys that are pairs")
        walked = self.frame.walker(bound[0].axis)
        assert walked is not None
        if scan_of(node, walked) is not None:
            return self._scan(node)
        moves = {bound[0]: position(walked)}
        others = node.free - self.frame.rows - {walked}
        if any(self.frame.walker(index.axis) for index in others):
            equal = (part for part in conjuncts(node.args[0]) if part.op == "eq")
            grouped = any(not part.free.isdisjoint(others) for part in equal)
            groups = "grouped_softmax: groups without ends (clamp(kind[j], 0, 7) says some)"
            raise refuse(groups if grouped else "map_stage: a fold of keys for each pair")
        condition, body = (substitute(arg, moves) for arg in node.args)
        outer: list[Expr] = []
        inner: list[Expr] = []
        for part in conjuncts(condition):
            (inner if self.frame.walks(part) else outer).append(part)
        separation = Separation(self.frame, walked, lambda expr: self._stored(expr, walked))
        stored = {c: self._at_hand(self._stored(c, walked)) if finished(c) else c for c in inner}
        domain = self._domain(walked, tuple(stored.values()))
        conditions = tuple(stored[c] for c in inner if not implied(c, node.monoid, body))
        keys = Keys(walked, conditions, domain)
        result = self._folded(node.monoid, separation, keys, body)
        if not outer:
            return result
        return make("where", all_of(outer), result, identity(node.monoid, result.kind))

    def _scan(self, node: Expr) -> Expr:
        """A fold over the keys after or before a key stays where it is: the loop that asks for it
        runs along the keys. What says nothing of its own key stands outside."""
        (own,), (condition, body) = node.bound, node.args
        tests = conjuncts(condition)
        outer = [test for test in tests if own not in test.free]
        inner = [t for t in tests if own in t.free and not implied(t, node.monoid, body)]
        result = fold(node.monoid, (own,), body, all_of(inner))
        if not outer:
            return result
        return make("where", all_of(outer), result, identity(node.monoid, result.kind))

    def _domain(self, walked: Index, conditions: tuple[Expr, ...]) -> str:
        """The name of a set of keys."""
        for name, (index, known) in self.domains.items():
            if index == walked and set(known) == set(conditions):
                return name
        name = f"{len(self.domains) + 1}"
        self.domains[name] = (walked, conditions)
        return name

    def _folded(self, monoid: str, separation: Separation, keys: Keys, body: Expr) -> Expr:
        if monoid == "sum" and body.kind == "real":
            whole = formed(body, self.frame, self.names) if self.bounded else body
            terms = self._inside(separation.terms(whole))
        elif monoid in ("max", "min") and body.kind == "real":
            return self._extremum(monoid, separation, keys, body)
        else:
            terms = (Term(ONE, separation.store(body) if finished(body) else body),)
        found: Expr | None = None
        for part in terms:
            term = self._together(part, separation)
            single = self._reduction(monoid, keys, term.pair)
            known = self.frame if self.bounded else None
            result = times_row(single, term.row, self._seen(keys.domain), known)
            found = result if found is None else make("add", found, result)
        assert found is not None
        return found

    def _together(self, term: Term, separation: Separation) -> Term:
        """Where a pair is relative to a value of its key, what the row is relative to is another
        maximum: the row's powers are finished first, so that each difference is taken of the pair's
        own exponent (2^(s - l_j) 2^(s - l_i), where 2^(2 s - l_j) is a number of another size)."""
        if self.bounded or not self.names.exponents or not finished(term.row):
            return term
        if not term.row.free <= self.frame.rows:
            return term
        pair, row = scaled(term.pair).exponent, scaled(term.row, self.symbolic).exponent
        names = {t.array.name for t, _ in pair.terms if t.op == "read"}
        if (
            not names & self.names.exponents.keys()
            or not row
            or any(e.same(pair) for e in self._powers(term.row))
        ):
            return term
        parts = factors_of(term.row)
        above, below = (tuple(map(separation.store, f)) for f in (parts.above, parts.below))
        known = Factors(above, below, parts.negative)
        return Term(ONE, (factors_of(separation.store(term.pair)) * known).expr)

    def _powers(self, row: Expr) -> list[Linear]:
        """The exponents that the row's folds are carried under."""
        used = (self.entries.get(str(n.attr)) for n in postorder(row) if n.op == "value")
        return [part.body.exponent for entry in used if entry for part in entry.parts]

    def _inside(self, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        """Where row values are at hand, factors that may be infinite stay with the pair: a row
        without keys is then 0 without having to be counted."""
        if not self.bounded:
            return terms
        return tuple(
            t if is_finite(t.row, self.frame) else Term(ONE, make("mul", t.pair, t.row))
            for t in terms
        )

    def _extremum(self, monoid: str, separation: Separation, keys: Keys, body: Expr) -> Expr:
        """max_j (r_i + s_ij) = r_i + max_j s_ij, where the row part has finished values."""
        if not finished(body):
            whole = formed(body, self.frame, self.names) if self.bounded else body
            return self._reduction(monoid, keys, whole)
        terms = separation.terms(body)
        row = [t.row for t in terms if t.pair == ONE]
        pair = [t for t in terms if t.pair != ONE]
        if len(pair) != 1 or pair[0].row != ONE:
            stored = self._at_hand(separation.store(body))
            return self._reduction(monoid, keys, stored)
        found = self._reduction(monoid, keys, pair[0].pair)
        for part in row:
            found = make("add", found, part)
        return found

    def _reduction(self, monoid: str, keys: Keys, body: Expr) -> Expr:
        """The value of a fold whose body depends on the pair alone."""
        walked, conditions = keys.walked, keys.conditions
        known = (*self.frame.rows, *self.frame.around, walked)
        widths = widths_of(body, known)
        if len(widths) > 1:
            raise refuse("linear_state: an outer product summed over keys")
        if any(widths_of(c, known) for c in conditions):
            raise refuse("axis_softmax: a mask for each width")
        conditions = tuple(c for c in conditions if not implied(c, monoid, body))
        own = widths[0] if widths else None
        width = Index(own.axis.name, own.axis, 0) if own else None
        if own is not None and width is not None:
            body = substitute(body, {own: position(width)})
        counted = body.kind == "int"
        if counted:  # carried as a real, which holds whole numbers up to its precision
            body = make("to_real", body)
        tests = frozenset(c.digest for c in conditions)
        key = (monoid, walked, tests, keys.domain, body.digest)
        if key not in self.known:
            name = f"r{len(self.known) + 1}"
            pair = self._apart(body) if monoid == "sum" else Scaled(body)
            if width is not None and any(width in term.free for term, _ in pair.exponent.terms):
                pair = Scaled(body)  # a reference is a row's, not a width's
            level = max((self._level_of(e) for e in (body, *conditions)), default=0)
            part = Part(walked, conditions, pair, keys.domain)
            self.entries[name] = Reduction(name, monoid, body.kind, width, (part,), level)
            self.known[key] = name
        found = self.value_of(self.known[key], own)
        return make("to_int", found) if counted else found

    def _apart(self, body: Expr) -> Scaled:
        """The body with its exponent apart, as far as it needs a running reference."""
        if self.bounded:
            return Scaled(formed(body, self.frame, self.names))
        return apart(body, self._exponents(), self.names)

    def _at_hand(self, body: Expr) -> Expr:
        return at_hand(body, self._exponents(), self.names)

    def _exponents(self) -> set[str]:
        """The names of the arrays of exponents that an earlier pass has finished."""
        stored = (pending.exponent for pending in self.pending.values())
        return self.relative | {array.name for array in stored if array is not None}

    def value_of(self, name: str, own: Index | None) -> Expr:
        """The result, at the width index of the place where it is used."""
        entry = self.entries[name]
        over = [index for index in (*self.frame.grid, self.frame.held)]
        if own is None or own == entry.width:
            return value(name, entry.kind, (*over, *((own,) if own else ())))
        if entry.width is None:  # a second key, which has the walked one's name
            raise refuse("map_stage: a fold of keys for each key")
        alias = f"{name}:{own.number}"
        self.aliases[alias] = (name, own, entry.width)
        return value(alias, entry.kind, (*over, own))

    def _width_fold(self, node: Expr) -> Expr:
        """A fold over the width of a carried tile binds the tile's own index."""
        exchanged: dict[Index, Index] = {}
        for below in postorder(*node.args):
            alias = self.aliases.get(str(below.attr)) if below.op == "value" else None
            if alias is not None and alias[1] in node.bound:
                exchanged[alias[1]] = alias[2]
        if not exchanged:
            return node
        if any(width in node.free for width in exchanged.values()):
            raise refuse("mlp_stage: a product with the width of the output")
        done = tuple(rewrite(arg, self._unalias) for arg in node.args)
        return rename_bound(node.with_args(done), exchanged)

    def _unalias(self, node: Expr) -> Expr:
        if node.op == "value" and node.attr in self.aliases:
            name, _, width = self.aliases[str(node.attr)]
            return self.value_of(name, width)
        return node

    def _seen(self, domain: str) -> Expr:
        return value(SEEN + domain, "bool", (*self.frame.grid, self.frame.held))

    # ---------------------------------------------------------------------------- passes

    def _stored(self, expr: Expr, walked: Index) -> Expr:
        """The expression with finished row values read back from memory."""
        parts = row_parts(expr, walked)
        return exchange(expr, {part.digest: self._read_back(part) for part in parts})

    def _read_back(self, expr: Expr) -> Expr:
        if any(i not in self.frame.rows for i in expr.free):
            raise refuse("two_pass: a row vector that depends on all keys")
        if expr.digest not in self.pending:
            self.pending[expr.digest] = self._make_pending(expr)
        stored = self.pending[expr.digest]
        return stored.at(map(position, stored.mantissa.indices))

    def _make_pending(self, expr: Expr) -> Pending:
        over = (*self.frame.grid, self.frame.held)
        whole = join_sources(expr, self)
        level = self._level_of(whole)
        depth = self._nesting(whole) if scaled(whole, self.symbolic).exponent else None
        return Pending(*arrays_of("finished", over, depth, self.names), whole, level)

    def _nesting(self, expr: Expr) -> int:
        """How many folds stand in one another in a formula of reductions."""
        used = (self.entries.get(str(n.attr)) for n in postorder(expr) if n.op == "value")
        parts = [part for entry in used if entry is not None for part in entry.parts]
        bodies = [
            e for p in parts for e in (p.body.mantissa, *(t for t, _ in p.body.exponent.terms))
        ]
        return max((1 + nesting(body, self.names) for body in bodies), default=0)

    def symbolic(self, node: Expr) -> Scaled | None:
        """A reduction's form as far as it is known before kernels are made: whether it has an
        exponent."""
        entry = self.entries.get(str(node.attr)) if node.op == "value" else None
        if entry is None or not any(part.body.exponent for part in entry.parts):
            return None
        return Scaled(node, scaled(make("exp2", value(f"{entry.name}@", "real"))).exponent)

    def _level_of(self, expr: Expr) -> int:
        """How many passes must have run before the expression can be evaluated."""
        level = 0
        stored = {p.mantissa.name: p.level + 1 for p in self.pending.values()}
        for node in postorder(expr):
            if node.op == "read":
                level = max(level, stored.get(node.array.name, 0))
            elif node.op == "value" and str(node.attr) in self.entries:
                level = max(level, self.entries[str(node.attr)].level)
        return level

    # ----------------------------------------------------------------------- key sources

    def join(self, first: Reduction, second: Reduction) -> Reduction:
        """One reduction of two over different sources."""
        key = ("join", first.name, second.name)
        if key not in self.known:
            name = f"r{len(self.known) + 1}"
            parts = first.parts + second.parts
            level = max(first.level, second.level)
            self.entries[name] = replace(first, name=name, parts=parts, level=level)
            self.known[key] = name
        return self.entries[self.known[key]]
