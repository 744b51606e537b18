"""A mask's formula in disjunctive form: what `regions` reasons about, one conjunction at a time.

Does: pushes negation to the atoms, opens `where`, `==` of truths, and those of min, max, abs and
where in a comparison that tie both indices of a pair together; multiplies out within a limit (what
exceeds it stays nested, which loses tightness, never truth).
Needs: a bool tree over pairs. Does not: bound anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc.expressions.index import Index
from attnc.expressions.tree import COMPARISON, Expr, call, number, postorder, rewrite

CONJUNCTIONS = 32  # a product of disjunctions with more conjunctions stays nested
NESTED = 30  # nested disjunctions within each other; what is deeper counts as "maybe"
OPENED = 48  # comparisons that one comparison may be opened into

Tile = frozenset[Index]


@dataclass(frozen=True, slots=True)
class Literal:
    """An atom (a comparison, a read, whatever has no logic outside), or a nested disjunction."""

    atom: Expr
    holds: bool
    nested: Disjunction | None = None
    depth: int = 0

    def key(self) -> tuple[bytes, bool]:
        return self.atom.digest, self.holds


Conjunction = tuple[Literal, ...]
Disjunction = tuple[Conjunction, ...]


def disjunctions(visible: Expr, tile: Tile) -> tuple[Disjunction, Disjunction]:
    """The disjunctive forms of a mask and of its negation."""
    root = _opened(visible, tile)
    done: dict[bytes, tuple[Disjunction, Disjunction]] = {}
    stack: list[tuple[Expr, bool]] = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if node.digest in done:
            continue
        operands = _operands(node)
        if ready or not operands:
            done[node.digest] = _forms(node, operands, done)
        else:
            stack.append((node, True))
            stack.extend((operand, False) for operand in operands)
    return done[root.digest]


def _operands(node: Expr) -> list[Expr]:
    """The operands of logic, a chain of one operation at once."""
    if node.op == "not":
        return list(node.args)
    if node.op not in ("and", "or"):
        return []
    found: dict[bytes, Expr] = {}
    seen: set[bytes] = set()
    stack = list(reversed(node.args))
    while stack:
        part = stack.pop()
        if part.digest in seen:
            continue
        seen.add(part.digest)
        if part.op == node.op:
            stack.extend(reversed(part.args))
        else:
            found[part.digest] = part
    return list(found.values())


def _forms(
    node: Expr, operands: list[Expr], done: dict[bytes, tuple[Disjunction, Disjunction]]
) -> tuple[Disjunction, Disjunction]:
    if node.op == "number":
        true: Disjunction = ((),)
        return (true, ()) if node.attr else ((), true)
    if node.op == "not":
        return done[operands[0].digest][::-1]
    if node.op in ("and", "or"):
        yes = [done[operand.digest][0] for operand in operands]
        no = [done[operand.digest][1] for operand in operands]
        if node.op == "and":
            return _product(operands, True, yes), _union(no)
        return _union(yes), _product(operands, False, no)
    same: Disjunction = ((Literal(node, True),),)
    if node.op not in ("eq", "ne") or any(arg.kind != "int" for arg in node.args):
        return same, ((Literal(node, False),),)
    apart: Disjunction = tuple((Literal(call(op, *node.args), True),) for op in ("lt", "gt"))
    if node.op == "eq":
        return same, apart
    return apart, ((Literal(call("eq", *node.args), True),),)


def _union(parts: list[Disjunction]) -> Disjunction:
    kept: dict[tuple[tuple[bytes, bool], ...], Conjunction] = {}
    for conjunction in (one for part in parts for one in part):
        kept.setdefault(tuple(literal.key() for literal in conjunction), conjunction)
    return ((),) if () in kept else tuple(kept.values())


def _product(operands: list[Expr], holds: bool, parts: list[Disjunction]) -> Disjunction:
    """The conjunction of disjunctions, multiplied out unless that is too long."""
    count = 1
    for part in parts:
        count = min(count * len(part), CONJUNCTIONS + 1)
    if count > CONJUNCTIONS and all(parts):
        apart = [_apart(arg, holds, part) for arg, part in zip(operands, parts, strict=True)]
        return (tuple(literal for literals in apart for literal in literals),)
    result: list[dict[tuple[bytes, bool], Literal]] = [{}]
    for part in parts:
        if len(part) == 1:  # in place: conjunctions of thousands
            for one in result:
                one.update({literal.key(): literal for literal in part[0]})
        else:
            new = [{literal.key(): literal for literal in right} for right in part]
            result = [{**left, **right} for left in result for right in new]
    return _union([tuple(tuple(one.values()) for one in result if not _contradicts(one))])


def _apart(operand: Expr, holds: bool, part: Disjunction) -> Conjunction:
    """An operand as literals: its own, if it is one conjunction, else its disjunction as it is."""
    if len(part) == 1:
        return part[0]
    depth = 1 + max((one.depth for conjunction in part for one in conjunction), default=0)
    return (Literal(operand, holds, part, depth),) if depth <= NESTED else ()


def _contradicts(conjunction: dict[tuple[bytes, bool], Literal]) -> bool:
    return any((digest, not holds) in conjunction for digest, holds in conjunction)


# --- opening comparisons ------------------------------------------------------------------------


def _opened(visible: Expr, tile: Tile) -> Expr:
    def change(node: Expr) -> Expr:
        if node.op in COMPARISON:
            return _open(node, tile)
        if node.op == "where" and node.kind == "bool":
            condition, yes, no = node.args
            return call("or", call("and", condition, yes), call("and", call("not", condition), no))
        return node

    return rewrite(visible, change)


def _open(comparison: Expr, tile: Tile) -> Expr:
    """A comparison as and/or of comparisons without what can be opened."""
    if not comparison.free & tile:
        return comparison
    left, right = comparison.args
    if left.kind == "bool":
        same = call(
            "or", call("and", left, right), call("and", call("not", left), call("not", right))
        )
        return same if comparison.op == "eq" else call("not", same)
    pending, parts, budget = [comparison], {}, OPENED
    order: list[Expr] = []
    while pending:
        node = pending.pop()
        if node.digest in parts:
            continue
        order.append(node)
        new = _step(node, tile) if budget > 0 else None
        parts[node.digest] = new
        if new is not None:
            fresh = [one for one in postorder(new) if one.op in COMPARISON and one != node]
            budget -= len(fresh)
            pending.extend(fresh)
    for node in reversed(order):  # parents were met before what they open into
        new = parts[node.digest]
        if new is not None:
            parts[node.digest] = rewrite(new, lambda one: parts.get(one.digest) or one)
    return parts[comparison.digest] or comparison


def _step(node: Expr, tile: Tile) -> Expr | None:
    """One comparison opened once, None if there is nothing to open."""
    if node.op not in COMPARISON or not node.free & tile or node.args[0].kind == "bool":
        return None
    congruent = _congruent(node)
    if congruent is not None:
        return congruent
    found = _tying(node, tile)
    if found is None:
        return None
    inner, sign = found
    if inner.op == "where":
        condition, yes, no = inner.args
        chosen = call("and", condition, _exchange(node, inner, yes))
        other = call("and", call("not", condition), _exchange(node, inner, no))
        return call("or", chosen, other)
    if node.op == "eq":
        return call("and", *(call(op, *node.args) for op in ("le", "ge")))
    if node.op == "ne":
        return call("or", *(call(op, *node.args) for op in ("lt", "gt")))
    branches = inner.args if inner.op != "abs" else (inner.args[0], call("neg", inner.args[0]))
    upper = (node.op in ("le", "lt")) == (sign > 0)
    conjunction = upper == (inner.op != "min")
    if inner.kind == "real" and inner.op != "abs" and not conjunction:
        return None  # with a NaN among the branches the comparison is false, an `or` need not be
    opened = tuple(_exchange(node, inner, branch) for branch in branches)
    return call("and" if conjunction else "or", *opened)


def _congruent(node: Expr) -> Expr | None:
    """x % m == y % m is (x - y) % m == 0."""
    left, right = node.args
    if node.op not in ("eq", "ne") or left.op != "mod" or right.op != "mod":
        return None
    if left.args[1] != right.args[1] or node.args[0].kind != "int":
        return None
    away = call("mod", call("sub", left.args[0], right.args[0]), left.args[1])
    return call(node.op, away, number(0))


def _tying(node: Expr, tile: Tile) -> tuple[Expr, int] | None:
    """A term of the comparison to be opened, and the sign with which it stands on the left."""
    stack = [(node.args[0], 1), (node.args[1], -1)]
    while stack:
        part, sign = stack.pop()
        if not part.free & tile:
            continue
        if part.op in ("add", "to_real"):
            stack.extend((arg, sign) for arg in part.args)
        elif part.op == "sub":
            stack += [(part.args[0], sign), *((arg, -sign) for arg in part.args[1:])]
        elif part.op == "neg":
            stack.append((part.args[0], -sign))
        elif _worth_opening(part, tile):
            return part, sign
    return None


def _worth_opening(part: Expr, tile: Tile) -> bool:
    """Pairs, and conditions on positions; data of one index is better summed up as a whole."""
    if part.op not in ("min", "max", "abs", "where"):
        return False
    if len(part.free & tile) == 2:
        return True
    on_positions = part.op == "where" and bool(part.args[0].free & tile)
    return on_positions and all(one.op != "read" for one in postorder(part))


def _exchange(root: Expr, old: Expr, new: Expr) -> Expr:
    return rewrite(root, lambda node: new if node.digest == old.digest else node)
