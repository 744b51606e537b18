"""What a stretch of rows does to the states before it, whatever these are, so that shares of the
rows of one instance run at the same time.

does      walks the stretch from states that are nothing, with the products of its factors beside
          them, and joins both with the states before
needs     rows that combine (associative), and states that do not read one another
does not  say how many shares there are
"""

from __future__ import annotations

from collections.abc import Iterable

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, position, read, rewrite
from attnc.graph import Recurrence
from attnc.passes.affine import log_of
from attnc.passes.associative import NotCombined, Solved, SolvedPair, is_state, solved
from attnc.passes.factors import ZERO
from attnc.passes.rows import Rows
from attnc.passes.simplify import make
from attnc.schedule.scans import ScanLoop, Shares


def in_shares(rows: Rows, recurrence: Recurrence) -> Shares:
    """What a stretch of rows does to the states before it. Raises NotCombined."""
    found: dict[str, Solved] = {}
    for each in solved(recurrence):
        if isinstance(each, SolvedPair):
            raise NotCombined(f"{each.states[0].name} and {each.states[1].name} see each other")
        found[each.state.name] = each
    for one in found.values():
        if one.reads(found):
            raise NotCombined(f"what {one.state.name} becomes depends on another state")
    every = [found[state.name] for state in recurrence.states]
    own = {one.state.name: _named(rows, one.state, "share", one.state.indices) for one in every}
    passed: dict[str, Array] = {}
    for one in every:
        if one.factor not in (one.algebra.one, one.algebra.nothing):
            indices = [index for index in one.state.indices if index in one.factor.free]
            passed[one.state.name] = _named(rows, one.state, "passed", indices)

    def moved(node: Expr) -> Expr:
        return read(own[node.array.name], node.args) if is_state(node) else node

    nexts = [rewrite(expr, moved) for expr in recurrence.next]
    initial = [one.algebra.nothing for one in every]
    joined = []
    for one in every:
        share, first = _own_entry(own[one.state.name]), _own_entry(one.state)
        factor, more = one.factor, passed.get(one.state.name)
        if more is not None:
            factor = _own_entry(more)
            nexts.append(make("add", factor, _logarithm(one)))
            initial.append(ZERO)
            factor = make("exp", factor) if one.algebra.times == "mul" else factor
        kept = factor != one.algebra.nothing
        joined.append(one.algebra.after(factor, first, share) if kept else share)
    states = (*own.values(), *passed.values())
    advance = rows.next_of(states, nexts)
    inside = (*rows.lets["row"], *rows.lets["before"])
    loop = ScanLoop(recurrence.time, None, states, tuple(initial), inside, advance)
    return Shares(tuple(rows.lets["constant"]), loop, tuple(joined))


def _logarithm(one: Solved) -> Expr:
    """What factors are summed up as: as products they would end among the smallest numbers, where
    processors are slow."""
    if one.algebra.times == "add":
        return one.factor
    return log_of(one.factor) or make("log", one.factor)


def _named(rows: Rows, state: Array, ending: str, indices: Iterable[Index]) -> Array:
    name = rows.names.fresh(f"{state.name}_{ending}")
    return Array(name, tuple(indices), state.kind, "state")


def _own_entry(state: Array) -> Expr:
    return read(state, map(position, state.indices))
