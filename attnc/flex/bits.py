"""Operations on bits, as arithmetic of whole numbers.

Positions are at least 0 and below 2**32. What bits a term may have set is followed, so that an
`or` of numbers that share none is their sum, and an `and` with a constant reads runs of bits:
`x & 0xf0` is `x // 16 % 16 * 16`.
"""

from __future__ import annotations

from attnc.flex.failures import refuse
from attnc.flex.terms import Term, postorder
from attnc.flex.trace import Tracer

POSITION = (1 << 32) - 1


def possible(term: Term) -> int | None:
    """The bits that a whole number may have; None where it may be below 0 or anything."""
    done: dict[Term, int | None] = {}
    for node in postorder(term):
        done[node] = _possible(node, [done[arg] for arg in node.args])
    return done[term]


def _possible(node: Term, given: list[int | None]) -> int | None:
    if node.op == "index":
        return POSITION
    if node.op == "number" and isinstance(node.value, int) and node.value >= 0:
        return int(node.value)
    if len(given) != 2 or given[0] is None:
        return None
    left, right, power = given[0], given[1], _power(node.args[1])
    if power is not None and node.op in ("mod", "floordiv", "mul"):
        moved = {"mod": left & ((1 << power) - 1), "floordiv": left >> power, "mul": left << power}
        return moved[node.op]
    if node.op == "add" and right is not None and not left & right:
        return left | right
    return None


def _power(term: Term) -> int | None:
    """n of a constant 2**n."""
    value = term.value
    if term.op != "number" or isinstance(value, bool) or not isinstance(value, int):
        return None
    return value.bit_length() - 1 if value > 0 and not value & (value - 1) else None


def _constant(tracer: Tracer, term: Term) -> Term:
    """A captured number as its value, which is fixed with it."""
    if term.op != "param":
        return term
    tracer.book.fix(term)
    return tracer.terms.number(tracer.book.values[str(term.value)])


def bitwise(tracer: Tracer, op: str, left: Term, right: Term) -> Term:
    """`&`, `|`, `^` of whole numbers."""
    terms = tracer.terms
    left, right = _constant(tracer, terms.counted(left)), _constant(tracer, terms.counted(right))
    if left.op == "number":
        left, right = right, left
    constant = right.value if right.op == "number" else None
    if op == "and" and isinstance(constant, int) and constant >= 0:
        return _masked(tracer, left, constant)
    if op in ("or", "xor"):
        one, two = possible(left), possible(right)
        if one is not None and two is not None and not one & two:
            return terms.arithmetic("add", left, right)
    raise refuse(
        {"and": "&", "or": "|", "xor": "^"}[op],
        "on whole numbers only `& constant` and joins of separate bits are arithmetic",
    )


def _masked(tracer: Tracer, x: Term, mask: int) -> Term:
    """`x & mask`: each run of set bits is read and put back."""
    terms = tracer.terms
    known = possible(x)
    if known is not None:
        if not known & ~mask:
            return x
        mask &= known
    total: Term | None = None
    place = 0
    while mask >> place:
        if not mask >> place & 1:
            place += 1
            continue
        width = 0
        while mask >> (place + width) & 1:
            width += 1
        part = terms.arithmetic("floordiv", x, terms.number(1 << place))
        if known is None or known >> (place + width):
            part = terms.arithmetic("mod", part, terms.number(1 << width))
        part = terms.arithmetic("mul", part, terms.number(1 << place))
        total = part if total is None else terms.arithmetic("add", total, part)
        place += width
    return total if total is not None else terms.number(0)


def shifted(tracer: Tracer, x: Term, by: Term, left: bool) -> Term:
    """`x << n` and `x >> n`."""
    terms = tracer.terms
    by = _constant(tracer, by)
    if by.op == "number" and isinstance(by.value, int):
        factor = terms.number(1 << by.value)
    else:
        factor = terms.arithmetic("pow", terms.number(2), by)
    return terms.arithmetic("mul" if left else "floordiv", terms.counted(x), factor)
