"""Powers in the body of a fold put together: exp(s) / 2^l may be within range where neither is.

Where the row's l is finished, the body is formed as exp2(s log2 e - l). Where a running reference
is to keep it within range, its exponent stands apart.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

from attnc.expressions.tree import Expr, number, postorder, rewrite
from attnc.passes.constants import LN_2
from attnc.passes.exponents import Scaled, scaled
from attnc.passes.factors import ONE, addends_of, factors_of, total
from attnc.passes.frame import Frame, widths_of
from attnc.passes.hoist import Names
from attnc.passes.linear import Linear
from attnc.passes.nesting import outward
from attnc.passes.scans import compared
from attnc.passes.simplify import make


def formed(body: Expr, frame: Frame, names: Names) -> Expr:
    """The body with its powers put together and formed: exp(s) / 2^l is exp2(s log2 e - l). A
    power is multiplied into a sum whose terms have powers of their own, so that each is formed
    at once: none of them may be within range alone. So in what runs along the keys."""
    body = rewrite(body, lambda node: _formed_scan(node, frame, names))
    pair = (*frame.rows, *frame.around, *frame.walked)
    wide, rest = factors_of(body).split(lambda f: bool(widths_of(f, pair)))
    parts = _spread(replace(rest, negative=wide.negative).expr)
    if len(parts) == 1:
        return outward(scaled(body, aligning=False).collapsed(), names)
    whole = total(scaled(part, aligning=False).collapsed() for part in parts)
    own = scaled(replace(wide, negative=False).expr, aligning=False).collapsed()
    return outward(whole if own == ONE else make("mul", whole, own), names)


def _formed_scan(node: Expr, frame: Frame, names: Names) -> Expr:
    if compared(node, frame.walked) is None:
        return node
    condition, body = node.args
    if body.kind != "real":
        return node
    return node.with_args((condition, formed(body, frame, names)))


def _spread(body: Expr) -> list[Expr]:
    """Terms whose sum is the body, such that no power stands beside a sum of other powers."""
    factors = factors_of(body)
    for place, factor in enumerate(factors.above):
        addends = addends_of(factor)
        if len(addends) < 2:
            continue
        powers = [scaled(addend, aligning=False).exponent for addend, _ in addends]
        rest = replace(factors, above=factors.above[:place] + factors.above[place + 1 :])
        alike = all(power.same(powers[0]) for power in powers)
        if alike or not scaled(rest.expr, aligning=False).exponent:
            continue
        found: list[Expr] = []
        for addend, minus in addends:
            term = (rest * factors_of(addend)).expr
            found.extend(_spread(make("neg", term) if minus else term))
        return found
    return [body]


def apart(body: Expr, stored: Container[str], names: Names) -> Scaled:
    """The body with its exponent apart. An exponent relative to one of an earlier pass is no
    greater than the row's, so it need not be tracked; what it is relative to twice stays
    apart."""
    known = _known_exponents(body, stored)
    if not known:
        return scaled(body)
    whole = scaled(body, lambda node: _log_at_hand(node, stored), aligning=False)
    relative = [(n, c) for n, c in whole.exponent.terms if n.digest in known and c < 0]
    if not relative:
        return whole
    beyond = Linear(tuple((term, c + 1) for term, c in relative if c != -1))
    relieved = Scaled(whole.mantissa, whole.exponent - beyond).collapsed()
    return Scaled(outward(relieved, names), beyond)


def at_hand(body: Expr, stored: Container[str], names: Names) -> Expr:
    """A body with finished row values, its powers put together: exp(s) / 2^l may be within
    range where neither is."""
    if not _known_exponents(body, stored):
        return body
    whole = scaled(body, lambda node: _log_at_hand(node, stored), aligning=False)
    return outward(whole.collapsed(), names)


def _log_at_hand(node: Expr, stored: Container[str]) -> Scaled | None:
    """log(exp(s) / 2^l) where l is finished, of the difference: s and l may be large and it small,
    or the number itself too small for a kernel to hold."""
    if node.op != "log" or not _known_exponents(node, stored):
        return None
    inside = scaled(node.args[0], aligning=False)
    found = make("log", inside.mantissa)
    if inside.exponent:
        found = make("add", make("mul", inside.exponent.expr(), number(LN_2)), found)
    return Scaled(found)


def _known_exponents(body: Expr, stored: Container[str]) -> set[bytes]:
    """The reads of exponents that an earlier pass has finished: of the stored arrays."""
    return {n.digest for n in postorder(body) if n.op == "read" and n.array.name in stored}
