"""The reverse of a chunk of rows: the adjoint of its statements, each a product of tiles again.

A chunk of a recurrence (chunkwise) is a list of contractions with decays, perhaps a triangular
solve, and scalar expressions between them. Backwards, with g the adjoint of a result and F the
product of the decays between two rows,

    pair[t, s] = sum_d l[t, d] r[s, d] F     l_grad = rows of g with r,  r_grad = later rows of g
    row[t] = sum_s p[t, s] r[s] F            p_grad = pairs of g and r,  r_grad = later rows of p
    row[t] = l[t] S start[t]                 l_grad = g S^T start,       S_grad = (l start)^T g
    S = sum_t l[t] r[t] rest[t]              l_grad = r S_grad^T rest,   r_grad = l S_grad rest
    (1 + M) X = B                            B_grad = (1 + M)^-T g,      M_grad = -B_grad X^T

A logarithm of a decay gets the sum of all terms whose factor it is in: of pairs with s < u <= t
those at u. They are added up, never told apart as a difference of sums over more pairs, so that a
decay of nearly 0 has a gradient as exact as any. The expressions between are pulled back by the
rules of derivatives, as the sequential form's are.

does      statements of the way back, from those of the forward's chunk; rows of gradients, sums
          over rows, the adjoint of the states
needs     the chunkwise form of the forward; what the sequential reverse has decided (targets of
          gradients, what is carried)
does not  know families; differentiate what marks values as constant, or reads at computed places
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from attnc.expressions.index import Index
from attnc.expressions.tree import (
    Array,
    Expr,
    fold,
    is_number,
    position,
    read,
    rewrite,
)
from attnc.graph import Graph
from attnc.passes.chunk_replay import ChunkReplay, changed, needed
from attnc.passes.chunkwise import RowByRow
from attnc.passes.differentiate import Pullback, finished
from attnc.passes.factors import ONE, ZERO
from attnc.passes.rows import STATES
from attnc.passes.scan_inputs import Destinations, own, plus
from attnc.passes.simplify import make, simplify_expr
from attnc.schedule.chunks import (
    ChunkStatement,
    LaterRows,
    LogGradient,
    Pairs,
    RowSum,
    TransposedSolve,
)
from attnc.schedule.scans import ReverseChunks, RowWrite
from attnc.schedule.statements import Contraction, Let, TriangularSolve

LEAF = "leaf "  # before the name of what is differentiated by


@dataclass(kw_only=True)
class ChunkReverse(ChunkReplay):
    """Builds the reverse of one chunked scan.

    graph     of the operator
    given     the cotangents of results, by output
    adjoints  what is carried backwards of each state, by its name
    sides     the adjoints of operands, by statement and operand; `silent`: those that are 0
    """

    ends: Destinations
    graph: Graph
    given: dict[str, Array]
    adjoints: dict[str, Array]
    sides: dict[tuple[str, str], Array] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)

    def chunks(self) -> ReverseChunks:
        """The reversed chunk. Raises RowByRow with what stands in the way."""
        loop = self.forward.loop
        steps = self._forward()
        for let in loop.after:
            self.inlined[let.name] = self._plain(let.expr)
        onward = tuple(self._settled(self._plain(expr)) for expr in loop.advance)
        forward = needed(self.statements, onward)
        self._open()
        for one in steps:
            self._begin(one)
        for store in self.forward.stores:
            array = store.array
            over = [i for i in array.indices if i not in self.grid and i != self.time]
            cotangent = read(self.given[array.name], map(position, array.indices))
            self.pullback.begin_at(
                self._leaves(self._plain(store.expr)), cotangent, frozenset(over)
            )
        for state, expr in zip(loop.states, loop.advance, strict=True):
            leaf = self._leaves(self._plain(expr))
            self.pullback.begin_at(leaf, own(self.adjoints[state.name]), frozenset(state.indices))
        self.pullback.run()
        for one in reversed(steps):
            self._reverse(one)
        writes, parts = self._gradients()
        advance = tuple(self._before(array, parts) for array in self._carried())
        exprs = (*advance, *(part for write in writes for part in (write.term, *write.at)))
        return ReverseChunks(
            tuple(self.rows.lets["constant"]),
            self.inner,
            tuple(self.arrays.values()),
            forward,
            onward,
            needed(self.statements, exprs),
            writes,
            advance,
        )

    # --- Expressions ------------------------------------------------------------------------------

    def _leaves(self, expr: Expr) -> Expr:
        """The same with states and arrays of the chunk as inputs, of one row."""

        def change(node: Expr) -> Expr:
            if node.op != "read" or node.array.role not in STATES:
                return node
            at = (one for one in node.args if one != position(self.time))
            return read(self._leaf(node.array), at)

        return rewrite(expr, change)

    def _leaf(self, array: Array) -> Array:
        indices = tuple(index for index in array.indices if index != self.time)
        return Array(LEAF + array.name, indices, "real", "input")

    def _back(self, expr: Expr) -> Expr:
        """A gradient's expression with leaves as what they are; adjoints that are 0 are gone."""
        states = {state.name: state for state in self.one.states}

        def change(node: Expr) -> Expr:
            if node.op != "read":
                return node
            name = node.array.name
            if name in self.silent:
                return ZERO
            if not name.startswith(LEAF):
                return node
            array = states.get(name.removeprefix(LEAF)) or self.arrays[name.removeprefix(LEAF)]
            at = iter(node.args)
            return read(array, (position(i) if i == self.time else next(at) for i in array.indices))

        found = rewrite(finished(expr), change)
        return simplify_expr(found) if self.silent else found

    # --- Adjoints ---------------------------------------------------------------------------------

    def _open(self) -> None:
        """What adjoints are pulled down to: inputs, states, results of statements."""
        leaves = {LEAF + array.name for array in (*self.one.states, *self.arrays.values())}
        wanted = frozenset({*self.ends.inputs, *leaves})
        self.pullback = Pullback(self.graph, wanted, False, ())

    def _begin(self, one: ChunkStatement) -> None:
        """Names the adjoints of a statement's operands and lets the rules pull them back."""
        for name, expr, over in self._sides(one):
            side = self._named(f"{one.name}_{name}_grad", over)
            self.sides[one.name, name] = side
            del self.arrays[side.name]
            free = frozenset(over) - {self.time}
            self.pullback.begin_at(self._leaves(expr), own(side), free)

    def _sides(self, one: ChunkStatement) -> Iterable[tuple[str, Expr, tuple[Index, ...]]]:
        """The operands of a statement that may have adjoints, and what these are over."""
        time = self.time
        if isinstance(one, Let):
            log = self._log(one)
            yield "log", log, (time, *self._widths(log))
            return
        if isinstance(one, TriangularSolve):
            yield "matrix", one.matrix, (time, self.inner)
            yield "right", one.right, (time, one.width)
            return
        assert isinstance(one, Contraction)
        over = (time, *self._widths(one.right))
        if one.along == self.inner:
            yield "left", one.left, (time, self.inner)
        else:
            yield "left", one.left, (time, *self._widths(one.left))
            over = self._widths(one.right) if self._of_state(one) else over
        yield "right", one.right, over
        if one.log is not None and not is_number(one.log, 0):
            yield "log", one.log, (time, *self._widths(one.log))

    def _adjoint(self, array: Array) -> Expr:
        """What a state's or a result's entry gives to what follows."""
        leaf = self._leaf(array)
        return self._back(self.pullback.gradient(leaf, leaf.indices))

    def _reverse(self, one: ChunkStatement) -> None:
        """The adjoints of a statement's operands."""
        array = self.arrays[one.name]
        expr = self._adjoint(array)
        if expr == ZERO:
            self.silent |= {side.name for (of, _), side in self.sides.items() if of == one.name}
            return
        given = self._local(f"{one.name}_grad", array.indices, expr)
        if isinstance(one, Let):
            self._side(one, "log", make("mul", own(array), given))
        elif isinstance(one, TriangularSolve):
            self._solve(one, own(array), given)
        else:
            assert isinstance(one, Contraction)
            whole = changed(one, self._operand)
            assert isinstance(whole, Contraction)
            if self._of_state(one):
                self._from_state(whole, own(array), given)
            elif one.along == self.inner:
                self._over_rows(whole, given)
            elif one.along == self.time:
                self._into_state(whole, given)
            else:
                self._pairs(whole, own(array), given)

    def _named_side(self, one: ChunkStatement, name: str) -> str:
        """The array of an operand's adjoint, which a statement makes now."""
        array = self.sides[one.name, name]
        self.arrays[array.name] = array
        return array.name

    def _side(self, one: ChunkStatement, name: str, expr: Expr) -> Expr:
        """The adjoint of an operand as an expression."""
        settled = self._settled(expr)
        self.statements.append(Let(self._named_side(one, name), settled))
        return own(self.sides[one.name, name])

    def _has_log(self, one: ChunkStatement) -> bool:
        return (one.name, "log") in self.sides

    def _solve(self, one: TriangularSolve, result: Expr, given: Expr) -> None:
        matrix = self._operand(one.matrix)
        right = self._named_side(one, "right")
        self.statements.append(TransposedSolve(right, matrix, given, one.width))
        minus = self._operand(make("neg", own(self.arrays[right])))
        pair = self._named_side(one, "matrix")
        self.statements.append(Contraction(pair, one.width, minus, result))

    def _pairs(self, one: Contraction, result: Expr, given: Expr) -> None:
        log, pairs = one.log, given
        spread = log is not None and bool(self._widths(log))
        if self._has_log(one):
            assert log is not None
            name = self._named_side(one, "log")
            if spread:
                made = LogGradient(name, given, one.before, one.left, one.right, log)
            else:
                made = LogGradient(name, self._operand(make("mul", given, result)), one.before)
            self.statements.append(made)
        if log is not None and not spread:
            array = self._named("decayed", (self.time, self.inner))
            self.statements.append(Pairs(array.name, given, log, one.before))
            log, pairs = None, own(array)
        left, right = self._named_side(one, "left"), self._named_side(one, "right")
        self.statements += [
            Contraction(left, self.inner, pairs, one.right, log, one.before),
            LaterRows(right, pairs, one.left, log, one.before),
        ]

    def _over_rows(self, one: Contraction, given: Expr) -> None:
        widths = self._widths(one.right)
        if widths:
            name = self._named_side(one, "left")
            self.statements.append(
                Contraction(name, widths[0], given, one.right, one.log, one.before)
            )
        else:
            row = self._local("row", (self.time,), one.right)
            earlier = read(row.array, (position(self.inner),))
            self._side(one, "left", make("mul", given, earlier))
        name = self._named_side(one, "right")
        self.statements.append(LaterRows(name, one.left, given, one.log, one.before))
        if self._has_log(one):
            name = self._named_side(one, "log")
            self.statements.append(
                LogGradient(name, one.left, one.before, given, one.right, one.log)
            )

    def _from_state(self, one: Contraction, result: Expr, given: Expr) -> None:
        """Of what rows read of the state before the chunk, decayed since."""
        across = tuple(i for i in self._widths(one.right) if i != one.along)
        start = self._factor(one, later=False, mine=not one.before)
        along = one.log is not None and one.along in one.log.free
        decayed = given if along else self._times(given, start)
        left = self._times(one.left, start) if along else one.left
        grad = self._row_by_state(across, decayed, one.right, (self.time, one.along))
        grad = self._side(one, "left", make("mul", grad, start) if along else grad)
        self._state_of_rows(one, "right", left, decayed)
        if self._has_log(one):
            term = make("mul", one.left, grad) if along else make("mul", given, result)
            self._log_sum(one, term, later=True, mine=not one.before)

    def _into_state(self, one: Contraction, given: Expr) -> None:
        """Of what rows add to the state after the chunk, decayed till then."""
        (key,), across = self._widths(one.left), self._widths(one.right)
        rest = self._factor(one, later=True, mine=False)
        spread = one.log is not None and self._widths(one.log) == across and bool(across)
        left = one.left if spread else self._times(one.left, rest)
        right = self._times(one.right, rest) if spread else one.right
        grad = self._row_by_state(across, right, given, (self.time, key))
        grad = self._side(one, "left", grad if spread else make("mul", grad, rest))
        other = self._row_by_state((key,), left, given, (self.time, *across))
        other = self._side(one, "right", make("mul", other, rest) if spread else other)
        if self._has_log(one):
            term = make("mul", one.right, other) if spread else make("mul", one.left, grad)
            self._log_sum(one, term, later=False, mine=False)

    def _factor(self, one: Contraction, later: bool, mine: bool) -> Expr:
        """The decay of each row since the chunk began, or till it ends."""
        if one.log is None:
            return ONE
        log = one.log
        over = (self.time, *self._widths(log))
        array = self._named("elapsed_log", over)
        self.statements.append(RowSum(array.name, log, later, mine))
        return self._local("elapsed", over, make("exp", own(array)))

    def _times(self, expr: Expr, factor: Expr) -> Expr:
        return expr if factor == ONE else self._operand(make("mul", expr, factor))

    def _row_by_state(
        self, along: tuple[Index, ...], rows: Expr, state: Expr, over: tuple[Index, ...]
    ) -> Expr:
        """Rows times a state: contracted along a width, or entry by entry where it has no other."""
        if not along:
            return make("mul", rows, state)
        if len(over) == 1:
            return fold("sum", along, make("mul", rows, state))
        array = self._named("product", over)
        self.statements.append(Contraction(array.name, along[0], rows, state))
        return own(array)

    def _state_of_rows(self, one: Contraction, name: str, left: Expr, right: Expr) -> None:
        """The sum over rows of products of two vectors, over a state's indices."""
        side = self.sides[one.name, name]
        if self._widths(right):
            self.statements.append(Contraction(self._named_side(one, name), self.time, left, right))
            return
        term = self._local("term", (self.time, *side.indices), make("mul", left, right))
        whole = fold("sum", (self.time,), term)
        self.statements.append(Let(self._named_side(one, name), whole))

    def _log_sum(self, one: Contraction, term: Expr, later: bool, mine: bool) -> None:
        """The gradient of logarithms: a sum over the rows whose term they are in."""
        assert one.log is not None
        along = tuple(i for i in self._widths(term) if i not in one.log.free)
        summed = fold("sum", along, term) if along else term
        row = self._operand(summed)
        self.statements.append(RowSum(self._named_side(one, "log"), row, later, mine))

    # --- Results ----------------------------------------------------------------------------------

    def _carried(self) -> tuple[Array, ...]:
        return (*self.adjoints.values(), *self.ends.sums.values())

    def _before(self, array: Array, parts: dict[str, Expr]) -> Expr:
        """What is carried to the chunk before."""
        state = next((s for s in self.one.states if self.adjoints.get(s.name) is array), None)
        if state is not None:
            return self._settled(self._adjoint(state))
        part = parts.get(array.name, ZERO)
        if part == ZERO:
            return own(array)
        return plus(own(array), self._summed(array.name, array.indices, part))

    def _gradients(self) -> tuple[tuple[RowWrite, ...], dict[str, Expr]]:
        """Rows of gradients, and what the rows of a chunk give to sums, by their names."""
        writes: list[RowWrite] = []
        parts: dict[str, Expr] = {}
        for name in self.ends.inputs:
            term = self.ends.again(name, self.pullback, self._back)
            if term is None:
                raise RowByRow(f"{name} is read at computed places")
            if name in self.ends.rows:
                write = self.ends.rows[name]
                at = tuple(map(self._settled, write.at))
                writes.append(replace(write, at=at, term=self._settled(term)))
            elif name in self.ends.sums:
                parts[self.ends.sums[name].name] = term
        return tuple(writes), parts


__all__ = ["ChunkReverse"]
