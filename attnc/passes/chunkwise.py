"""Recurrences in chunks: what many rows do to a state at once, as products of matrices.

does      derives, from the algebra of a transition, the chunkwise form of states that decay by one
          number, or by one for each entry of a width, and of those that are corrected in rank one
          or a few; says of every other why it runs row by row
needs     states that do not see each other; what is added is a sum of products of a vector along
          the width that reads contract and a vector along the other
does not  form a quotient of decays, or a difference of their logarithms

With a(t) the decay, a state and what a row reads of it are

    S(t) = prod(a over rows up to t) S0 + sum(s <= t: prod(a over rows after s up to t) x(s) y(s)^T)
    q(t) S(t) = q(t) prod(a) S0 + sum(s <= t: (q(t) prod(a) x(s)) y(s)^T)

Products of decays are exponentials of sums of logarithms over an interval of rows, none of which is
above 0; an interval with a logarithm of -inf has the product 0. A correction in rank one adds
x(t) m(t) w(t)^T with w(t) = r(t) S(t - 1), which the same sum over earlier rows makes a unit
triangular system. Corrections of rank n (Householder products: several update lines) are n such
systems that see one another at earlier rows: y_a(t) = known_a(t) + sum(b: c_ab(t) r_b(t) S(t - 1)).
They are solved by elimination, block by block: every block is below the diagonal, and stays so.
Sources: Yang et al. 2024, "Gated Linear Attention"; Yang et al. 2024,
"Parallelizing Linear Transformers with the Delta Rule"; Dao and Gu 2024, "Transformers are SSMs".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attnc.expressions.index import Index
from attnc.expressions.tree import (
    Array,
    Expr,
    fold,
    position,
    postorder,
    read,
    rewrite,
    substitute,
    value,
)
from attnc.graph import GraphOutput, Recurrence
from attnc.passes.affine import NotAffine, affine_terms, transitions
from attnc.passes.chunk_forms import Family, Form, Group, families_of, linked_states
from attnc.passes.chunk_forms import RowByRow as RowByRow  # of this pass too
from attnc.passes.elimination import System
from attnc.passes.factors import ZERO, Factors, factors_of, total
from attnc.passes.rows import STATES, Rows
from attnc.passes.simplify import make
from attnc.schedule.scans import Final, ScanKernel, ScanLoop
from attnc.schedule.statements import Contraction, Decays, Let, Store, TriangularSolve, Which

PLAIN = ("read", "number", "value")
INNER = 4_000_000  # number of the index of the earlier row of a pair


@dataclass(frozen=True)
class Reading:
    """A product in a result: `name` = the sum over a state's key of left * state."""

    name: str
    state: str
    key: Index
    left: Expr


def in_chunks(
    name: str,
    rows: Rows,
    recurrence: Recurrence,
    outputs: Sequence[GraphOutput],
    finals: tuple[Final, ...],
) -> ScanKernel:
    """The chunkwise kernel of a recurrence at home in its instance: states over widths alone.

    Raises RowByRow with what stands in the way."""
    return _Chunks(rows, recurrence).kernel(name, outputs, finals)


class _Chunks:
    def __init__(self, rows: Rows, recurrence: Recurrence) -> None:
        self.rows, self.recurrence, self.time = rows, recurrence, recurrence.time
        self.inner = Index(self.time.name, self.time.axis, INNER)
        self.names = frozenset(state.name for state in recurrence.states)
        self.statements: list[Let | Contraction | TriangularSolve | Decays] = []
        self.known: dict[tuple[object, ...], Expr] = {}
        self.readings: list[Reading] = []
        self.grid = rows.grid

    def kernel(
        self, name: str, outputs: Sequence[GraphOutput], finals: tuple[Final, ...]
    ) -> ScanKernel:
        moves = transitions(self.recurrence, self.grid)
        linked_states(moves)  # what a state is says more than how it is read
        found = [self._read(output.expr) for output in outputs]
        contracted: dict[str, set[Index]] = {}
        for one in self.readings:
            contracted.setdefault(one.state, set()).add(one.key)
        families = families_of(moves, contracted)
        forms = {form.state.name: form for family in families for form in family.forms}
        for family in families:
            self._settle(family, forms)
        sums = {
            one.name: self._through(forms[one.state], one.left, self.recurrence.reads_old)
            for one in self.readings
        }
        exprs = [self._replaced(expr, sums) for expr in found]
        advance = tuple(self._advance(forms[state.name]) for state in self.recurrence.states)
        stores = []
        for output, expr in zip(outputs, exprs, strict=True):
            rest = [i for i in output.array.indices if i not in self.rows.grid and i != self.time]
            settled = self.rows.settle(expr, "after")
            stores.append(Store(output.array, rest[0] if rest else None, settled))
        lets = self.rows.lets
        loop = ScanLoop(
            self.time,
            self.inner,
            self.recurrence.states,
            tuple(self.rows.settle(expr, "before") for expr in self.recurrence.initial),
            (*lets["row"], *self.statements),
            advance,
            tuple(lets["after"]),
        )
        return ScanKernel(name, self.grid, tuple(lets["constant"]), loop, tuple(stores), finals)

    # --- Statements -------------------------------------------------------------------------------

    def _settle(self, family: Family, forms: dict[str, Form]) -> None:
        """The operands as values of a row; what solves the triangular system."""
        for form in family.forms:
            form.log = None if form.log is None else self._operand(form.log)
            form.link = None if form.link is None else self._operand(form.link)
        corrected = [group for group in family.groups if group.corrections]
        for group in family.groups:
            group.x = self._operand(group.x)
            if group.known and not group.corrections:
                group.y = self._operand(total(group.known))
        factors = [
            {place: self._operand(factor) for place, factor in group.corrections.items()}
            for group in corrected
        ]
        others = [self._through(forms[name], right, True) for name, right in family.rights]
        lefts = [(forms[name], self._operand(right)) for name, right in family.rights]
        first = family.forms[0]
        system = System(
            lambda matrix, right: self._solve(first, matrix, right),
            self._between,
            lambda pair, row: self._product(first, pair, row),
        )
        for group, factor in zip(corrected, factors, strict=True):
            system.matrix.append([])
            for other in corrected:
                terms = (
                    make("mul", by, self._reach(*lefts[place], other, True))
                    for place, by in factor.items()
                )
                system.matrix[-1].append(make("neg", total(terms)))
            right = total(make("mul", by, others[place]) for place, by in factor.items())
            if group.known:
                right = make("add", self._operand(total(group.known)), right)
            system.right.append(right)
        for group, found in zip(corrected, system.solved(), strict=True):
            group.y = found

    def _solve(self, form: Form, matrix: Expr, right: Expr) -> Expr:
        assert form.across is not None
        name = self._named("solved", (self.time, form.across))
        self.statements.append(TriangularSolve(str(name.attr), matrix, right, form.across))
        return name

    def _between(self, left: Expr, matrix: Expr, right: Expr) -> Expr:
        name = self._named("between", (self.time, self.inner))
        self.statements.append(TriangularSolve(str(name.attr), matrix, right, self.inner, left))
        return name

    def _product(self, form: Form, pair: Expr, row: Expr) -> Expr:
        assert form.across is not None
        over = (self.time, form.across)
        return self._contracted("added", self.inner, pair, row, None, True, over)

    def _operand(self, expr: Expr) -> Expr:
        """An expression of the row as a read, a number, or a value of its own."""
        settled = self.rows.settle(expr, "before")
        return settled if settled.op in PLAIN else self.rows.let(settled, "before")

    def _through(self, form: Form, left: Expr, before: bool) -> Expr:
        """The sum over the key of left * state, after the row or before it: what the chunk began
        with, and what its rows have added so far."""
        left = self._operand(left)
        over = (self.time, *((form.across,) if form.across is not None else ()))
        own = self._contracted("kept", form.key, left, _state(form), form.log, before, over)
        parts, leader = [own], form.leader
        if leader is not None:
            kept = self._contracted("kept", form.key, left, _state(leader), None, before, over)
            parts.append(make("mul", self._handed_since(form, before), kept))
        for group in _reaching(form):
            if group.y is not None:
                pair, log = self._reach(form, left, group, before), form.log_across
                made = self._contracted("added", self.inner, pair, group.y, log, before, over)
                parts.append(made)
        return total(parts)

    def _reach(self, form: Form, left: Expr, group: Group, before: bool) -> Expr:
        """What a row's `left` meets of what an earlier one has added, for each pair of rows."""
        over, leader = (self.time, self.inner), form.leader
        if not _among(group, _reaching(form)):
            return ZERO
        if leader is None or not _among(group, leader.groups):
            log = form.log_key
            return self._contracted("pair", form.key, left, group.x, log, before, over)
        plain = self._contracted("pair", form.key, left, group.x, None, False, over)
        factor = self._handed(form, before)
        if _among(group, form.groups):
            factor = make("add", self._decays(form, "between", before), factor)
        return make("mul", plain, factor)

    def _advance(self, form: Form) -> Expr:
        """The state after the chunk."""
        own, leader = _state(form), form.leader
        parts = [own]
        if form.log is not None:
            key = ("elapsed", form.log.digest)
            if key not in self.known:
                whole = make("exp", fold("sum", (self.time,), form.log))
                free = form.log.free - {self.time}
                self.known[key] = self._named("elapsed", free)
                self.statements.append(Let(str(self.known[key].attr), whole))
            parts = [make("mul", self.known[key], own)]
        if leader is not None:
            parts.append(make("mul", self._handed_through(form), _state(leader)))
        over = tuple(i for i in (form.key, form.across) if i is not None)
        for group in _reaching(form):
            if group.y is None:
                continue
            log, right = form.log, group.y
            if leader is not None and _among(group, leader.groups):
                factor, log = self._handed_until(form), None
                if _among(group, form.groups):
                    factor = make("add", self._decays(form, "until"), factor)
                right = make("mul", factor, right)
            made = self._contracted("rows", self.time, group.x, right, log, False, over)
            parts.append(made)
        return total(parts)

    # --- What one state is handed of another ------------------------------------------------------

    def _handed(self, form: Form, before: bool) -> Expr:
        """The sum over rows u of decays of the leader after s before u, the link, and the state's
        own decays after u up to t: for pairs (t, s)."""
        assert form.leader is not None and form.link is not None
        given = make("mul", form.link, self._decays(form.leader, "between", True))
        key = ("handed", form.state.name, before)
        if key not in self.known:
            self.known[key] = self._between(self._decays(form, "between", before), ZERO, given)
        return self.known[key]

    def _handed_since(self, form: Form, before: bool) -> Expr:
        """The same of the state before the chunk, for rows t."""
        return self._row_sum(self._decays(form, "between", before), self._given(form))

    def _handed_until(self, form: Form) -> Expr:
        """The same for the state after the chunk, for rows s."""
        assert form.leader is not None and form.link is not None
        later = make("mul", form.link, self._decays(form, "until"))
        return self._row_sum(self._decays(form.leader, "after", True), later)

    def _handed_through(self, form: Form) -> Expr:
        """The same from the state before the chunk to that after it."""
        key = ("handed through", form.state.name)
        if key not in self.known:
            term = make("mul", self._decays(form, "until"), self._given(form))
            self.known[key] = self._named("handed", ())
            self.statements.append(Let(str(self.known[key].attr), fold("sum", (self.time,), term)))
        return self.known[key]

    def _given(self, form: Form) -> Expr:
        assert form.leader is not None and form.link is not None
        return make("mul", form.link, self._decays(form.leader, "since", True))

    def _row_sum(self, pair: Expr, row: Expr) -> Expr:
        over = (self.time,)
        return self._contracted("handed", self.inner, pair, row, None, False, over)

    def _decays(self, form: Form, which: Which, before: bool = False) -> Expr:
        log = ZERO if form.log is None else form.log
        key = ("decays", log.digest, which, before)
        if key not in self.known:
            pairs = which in ("between", "after")
            name = self._named("decays", (self.time, *((self.inner,) if pairs else ())))
            self.statements.append(Decays(str(name.attr), log, which, before))
            self.known[key] = name
        return self.known[key]

    # --- Products ---------------------------------------------------------------------------------

    def _contracted(
        self,
        name: str,
        along: Index,
        left: Expr,
        right: Expr,
        log: Expr | None,
        before: bool,
        over: Iterable[Index],
    ) -> Expr:
        key = (along, left.digest, right.digest, None if log is None else log.digest, before)
        if key not in self.known:
            made = self._named(name, over)
            before = before and log is not None and along != self.time
            self.statements.append(Contraction(str(made.attr), along, left, right, log, before))
            self.known[key] = made
        return self.known[key]

    def _named(self, wanted: str, over: Iterable[Index]) -> Expr:
        name = self.rows.names.fresh(wanted)
        self.rows.levels[name] = "after"
        return value(name, "real", over)

    # --- What results read ------------------------------------------------------------------------

    def _read(self, expr: Expr) -> Expr:
        """The expression with its products with states as values; they go to `readings`."""
        changed = rewrite(expr, self._reading)
        for node in postorder(changed):
            if node.op == "read" and node.array.name in self.names and node.array.role in STATES:
                raise RowByRow(f"{node.array.name} is read other than by a product along a width")
        return changed

    def _reading(self, node: Expr) -> Expr:
        if node.op != "fold" or node.monoid != "sum" or len(node.bound) != 1:
            return node
        try:
            terms = affine_terms(node, self.names)
        except NotAffine:
            return node
        if all(term.read is None for term in terms):
            return node
        (bound,) = node.bound
        parts = []
        for term in terms:
            if term.read is None:
                parts.append(term.coefficient)
                continue
            array = term.read.array
            pairs = zip(array.indices, term.read.args, strict=True)
            moved = [(index, at) for index, at in pairs if at != position(index)]
            if len(moved) != 1 or moved[0][1] != position(bound) or term.bound != (bound,):
                return node
            key = moved[0][0]
            inside, outside = factors_of(term.coefficient).split(lambda f: bound in f.free)
            left = Factors(inside.above, inside.below).expr
            if left.free & set(array.indices) - {key} or key in left.free:
                return node
            left = substitute(left, {bound: position(key)})
            rest = Factors(outside.above, outside.below, inside.negative).expr
            parts.append(make("mul", rest, self._noted(array, key, left)))
        return total(parts)

    def _noted(self, array: Array, key: Index, left: Expr) -> Expr:
        name = f"read {len(self.readings)}"
        self.readings.append(Reading(name, array.name, key, left))
        return value(name, "real", (self.time, *(i for i in array.indices if i != key)))

    def _replaced(self, expr: Expr, sums: dict[str, Expr]) -> Expr:
        return rewrite(expr, lambda n: sums.get(str(n.attr), n) if n.op == "value" else n)


def _state(form: Form) -> Expr:
    return read(form.state, map(position, form.state.indices))


def _among(group: Group, groups: Iterable[Group]) -> bool:
    return any(group is one for one in groups)


def _reaching(form: Form) -> list[Group]:
    """What is added to a state, or to the one that is handed on to it."""
    leader = form.leader.groups if form.leader is not None else []
    return [*form.groups, *(group for group in leader if not _among(group, form.groups))]
