"""Conditions around sums of a derivative as conditions of these sums.

    k_grad[b, hk, j, d] = where(keep[b, j], keyed[b, hk, j, d], 0)

The sum of a key that the condition hides is never read, so its pairs need not be met: the loop that
holds rows then sees the same pairs for what rows and keys get, and skips the tiles of hidden keys.

does      finds the conditions that every read of a key's sum stands under
needs     outputs as formulas of sums' arrays (gradients)
does not  take a condition away where it stands
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, is_number, position, postorder, substitute
from attnc.graph import conjuncts
from attnc.passes.pair_sums import PairSum

Guards = dict[bytes, Expr]  # conditions by digest


def with_guards(sums: dict[str, PairSum], formulas: Iterable[Expr]) -> dict[str, PairSum]:
    """The sums, with the conditions that they are read under in all of these formulas."""
    found: dict[str, Guards] = {}
    for formula in formulas:
        for node, guards in _guarded(formula):
            one = sums.get(node.array.name) if node.op == "read" else None
            if one is not None and one.hold == "key":
                own = _at_indices(node, guards, one)
                name = node.array.name
                found[name] = _common(found[name], own) if name in found else own
    return {name: _under(one, found.get(name, {})) for name, one in sums.items()}


def _guarded(formula: Expr) -> Iterable[tuple[Expr, Guards]]:
    """Every node, and what holds wherever it counts: elsewhere a choice of zero is made."""
    known: dict[bytes, Guards] = {formula.digest: {}}
    for node in reversed(list(postorder(formula))):
        guards = known[node.digest]
        yield node, guards
        for place, arg in enumerate(node.args):
            own = guards
            if node.op == "where" and place == 1 and is_number(node.args[2], 0):
                own = {**guards, **{c.digest: c for c in conjuncts(node.args[0])}}
            before = known.get(arg.digest)
            known[arg.digest] = own if before is None else _common(before, own)


def _common(one: Guards, other: Guards) -> Guards:
    return {digest: condition for digest, condition in one.items() if digest in other}


def _at_indices(node: Expr, guards: Guards, one: PairSum) -> Guards:
    """The guards over the indices of the sum's own array, of a read straight at others; not those
    along its width: a pair is met for all of that."""
    moves: dict[Index, Expr] = {}
    for own, at in zip(one.array.indices, node.args, strict=True):
        if own != one.width and at.op == "index" and isinstance(at.attr, Index):
            moves[at.attr] = position(own)
    plain = (c for c in guards.values() if c.free <= set(moves))
    moved = (substitute(c, moves) for c in plain if not any(n.bound for n in postorder(c)))
    return {condition.digest: condition for condition in moved}


def _under(one: PairSum, guards: Guards) -> PairSum:
    more = tuple(c for c in guards.values() if c not in one.conditions)
    return replace(one, conditions=(*one.conditions, *more))
