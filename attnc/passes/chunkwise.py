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
from dataclasses import dataclass, field

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
from attnc.passes.affine import (
    NotAffine,
    Transition,
    affine_terms,
    log_decay,
    shrinks,
    transitions,
)
from attnc.passes.elimination import System
from attnc.passes.factors import ZERO, Factors, addends_of, factors_of, total
from attnc.passes.rows import STATES, Rows
from attnc.passes.simplify import make
from attnc.schedule.scans import Final, ScanKernel, ScanLoop
from attnc.schedule.statements import Contraction, Let, Store, TriangularSolve

PLAIN = ("read", "number", "value")
INNER = 4_000_000  # number of the index of the earlier row of a pair


RANK = 4  # most corrections of a row: a system of n has some n^3 / 3 products more than one


class RowByRow(Exception):
    """Why a recurrence has no chunkwise form, in a sentence's end."""


@dataclass
class Group:
    """Terms x(t) y(t)^T of one x: `known` of y, and the coefficients of products with the state, by
    their place in a form's `rights`, if the state is corrected along x."""

    x: Expr
    known: list[Expr] = field(default_factory=list)
    corrections: dict[int, Expr] = field(default_factory=dict)
    y: Expr | None = None


@dataclass
class Form:
    """One state: `key` is the width that its products contract, `across` the other.

    log     of the decay; None: a running sum
    rights  the vectors whose products with the state before the row correct it
    """

    state: Array
    key: Index
    across: Index | None
    log: Expr | None
    groups: list[Group]
    rights: list[Expr]

    @property
    def log_across(self) -> Expr | None:
        """The logarithm of a decay along the other width."""
        return self.log if self.log is not None and self.across in self.log.free else None

    @property
    def log_key(self) -> Expr | None:
        """The logarithm of a decay of one number, or along the contracted width."""
        return ZERO if self.log is None else None if self.log_across is not None else self.log


def _why(transition: Transition) -> str:
    """What of an update no chunk has products for."""
    if transition.kind == "coupled":
        found = {term.read.array.name for term in transition.coupled if term.read is not None}
        return f"reads {' and '.join(sorted(found))} too"
    reason = f": {transition.reason}" if transition.reason else ""
    return f"is {transition.kind}{reason}"


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
        self.statements: list[Let | Contraction | TriangularSolve] = []
        self.known: dict[tuple[object, ...], Expr] = {}
        self.readings: list[Reading] = []
        self.grid = rows.grid

    def kernel(
        self, name: str, outputs: Sequence[GraphOutput], finals: tuple[Final, ...]
    ) -> ScanKernel:
        moves = transitions(self.recurrence, self.grid)
        for transition in moves:  # what a state is says more than how it is read
            self._log(transition)
        found = [self._read(output.expr) for output in outputs]
        forms = {transition.state.name: self._form(transition) for transition in moves}
        for form in forms.values():
            self._settle(form)
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

    # --- What a state is --------------------------------------------------------------------------

    def _form(self, transition: Transition) -> Form:
        state = transition.state
        log = self._log(transition)
        keys = {one.key for one in self.readings if one.state == state.name}
        keys |= {one.along for one in transition.low_rank}
        if len(keys) != 1:
            which = "several widths" if keys else "no width"
            raise RowByRow(f"results contract {state.name} along {which}")
        (key,) = keys
        rest = [index for index in state.indices if index != key]
        if len(rest) > 1:
            raise RowByRow(f"{state.name} has more than two widths")
        across = rest[0] if rest else None
        groups: dict[Expr, Group] = {}
        for addend, minus in addends_of(transition.added or ZERO):
            if addend == ZERO:
                continue
            x, y = self._parted(factors_of(addend), key, across, state)
            group = groups.setdefault(x, Group(x))
            group.known.append(make("neg", y) if minus else y)
        rights = self._corrections(transition, groups, key, across, log)
        return Form(state, key, across, log, list(groups.values()), rights)

    def _log(self, transition: Transition) -> Expr | None:
        """The logarithm of the decay; None of a decay of 1."""
        name, kind = transition.state.name, transition.kind
        if kind not in ("sum", "scalar", "diagonal", "low rank", "diagonal plus low rank"):
            raise RowByRow(f"the update of {name} {_why(transition)}")
        log = log_decay(transition)
        if transition.decay is None or log is None:
            raise RowByRow(f"the decay of {name} has no logarithm that is known")
        if not shrinks(transition):
            raise RowByRow(f"that the decay of {name} is at most 1 is not proved")
        return None if log == ZERO else log

    def _parted(
        self, factors: Factors, key: Index, across: Index | None, state: Array
    ) -> tuple[Expr, Expr]:
        """A product as a vector along the key and one along the other width, the sign with it."""
        x, y = factors.split(lambda factor: key in factor.free)
        if key not in x.expr.free or (across is not None and across in x.expr.free):
            raise RowByRow(f"what is added to {state.name} is no product of two vectors")
        return Factors(x.above, x.below).expr, Factors(y.above, y.below, factors.negative).expr

    def _corrections(
        self,
        transition: Transition,
        groups: dict[Expr, Group],
        key: Index,
        across: Index | None,
        log: Expr | None,
    ) -> list[Expr]:
        """Notes the coefficients of products with the state; what multiplies it in them."""
        name, rights = transition.state.name, list[Expr]()
        if transition.rank > RANK:
            raise RowByRow(f"{name} is corrected in rank {transition.rank}")
        if transition.low_rank and (across is None or (log is not None and across in log.free)):
            raise RowByRow(
                f"{name} is corrected along the width that its decay does not vary along"
            )
        for one in transition.low_rank:
            x, scalar = self._parted(factors_of(one.left), key, across, transition.state)
            right, minus = one.vector
            if right not in rights:
                rights.append(right)
            found = groups.setdefault(x, Group(x)).corrections
            place, scalar = rights.index(right), make("neg", scalar) if minus else scalar
            found[place] = make("add", found[place], scalar) if place in found else scalar
        if sum(bool(group.corrections) for group in groups.values()) > RANK:
            raise RowByRow(f"{name} is corrected along more than {RANK} vectors")
        return rights

    # --- Statements -------------------------------------------------------------------------------

    def _settle(self, form: Form) -> None:
        """The operands as values of a row; what solves the triangular system."""
        form.log = None if form.log is None else self._operand(form.log)
        corrected = [group for group in form.groups if group.corrections]
        for group in form.groups:
            group.x = self._operand(group.x)
            if group.known and not group.corrections:
                group.y = self._operand(total(group.known))
        factors = [
            {place: self._operand(factor) for place, factor in group.corrections.items()}
            for group in corrected
        ]
        others = [self._through(form, right, before=True) for right in form.rights]
        lefts = [self._operand(right) for right in form.rights]
        system = System(
            lambda matrix, right: self._solve(form, matrix, right),
            self._between,
            lambda pair, row: self._product(form, pair, row),
        )
        for group, factor in zip(corrected, factors, strict=True):
            system.matrix.append([])
            for other in corrected:
                terms = (
                    make("mul", by, self._pair(form, lefts[place], other.x, True))
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
        state = read(form.state, map(position, form.state.indices))
        over = (self.time, *((form.across,) if form.across is not None else ()))
        parts = [self._contracted("kept", form.key, left, state, form.log, before, over)]
        for group in form.groups:
            if group.y is not None:
                pair, log = self._pair(form, left, group.x, before), form.log_across
                made = self._contracted("added", self.inner, pair, group.y, log, before, over)
                parts.append(made)
        return total(parts)

    def _pair(self, form: Form, left: Expr, x: Expr, before: bool) -> Expr:
        over = (self.time, self.inner)
        return self._contracted("pair", form.key, left, x, form.log_key, before, over)

    def _advance(self, form: Form) -> Expr:
        """The state after the chunk."""
        own = read(form.state, map(position, form.state.indices))
        parts = [own]
        if form.log is not None:
            key = ("elapsed", form.log.digest)
            if key not in self.known:
                whole = make("exp", fold("sum", (self.time,), form.log))
                free = form.log.free - {self.time}
                self.known[key] = self._named("elapsed", free)
                self.statements.append(Let(str(self.known[key].attr), whole))
            parts = [make("mul", self.known[key], own)]
        over = tuple(i for i in (form.key, form.across) if i is not None)
        for group in form.groups:
            if group.y is not None:
                parts.append(
                    self._contracted("rows", self.time, group.x, group.y, form.log, False, over)
                )
        return total(parts)

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
