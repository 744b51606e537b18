"""Forms that are typeset as a whole: fractions that forgive, logistic functions, cases, numbers."""

from __future__ import annotations

from html import escape

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, is_number

ELSE, OR, AND, NOT, COMPARE, SUM, TERM, SIGN, POWER, ATOM = range(10)
OUTER = ("b", "h", "hk")
SILENT = ("to_real", "to_complex", "to_int", "re")
Printed = tuple[str, int]
GREEK = {
    name: chr(ord("\u03b1") + place)
    for place, name in enumerate(
        ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa",
         "lambda", "mu", "nu", "xi", "omicron", "pi", "rho", "", "sigma", "tau", "upsilon", "phi",
         "chi", "psi", "omega")
    )
    if name
}  # fmt: skip


def filled(position: Expr, axis: str) -> bool:
    """Whether an outer axis is filled by name: by its own index, or a head's key head."""
    if axis not in OUTER:
        return False
    if position.op == "index" and isinstance(position.attr, Index):
        return position.attr.name in OUTER
    return axis == "hk" and position.op == "floordiv" and position.args[0].op == "index"


def case(value: str, condition: str) -> str:
    return f"<mtr><mtd>{value}</mtd><mtd>{condition}</mtd></mtr>"


def cases(rows: list[str]) -> str:
    table = f'<mtable columnalign="left left">{"".join(rows)}</mtable>'
    return f"<mrow><mo>{{</mo>{table}</mrow>"


def bare(node: Expr) -> Expr:
    """A node without the casts that the language makes silently."""
    while node.op in SILENT:
        node = node.args[0]
    return node


def ratio(node: Expr) -> Expr | None:
    """a / b of `where(b == 0, 0, a / b)`, the division that gives 0 over nothing."""
    condition, yes, otherwise = (bare(arg) for arg in node.args)
    if condition.op != "eq" or not is_number(yes, 0) or otherwise.op != "div":
        return None
    zero = is_number(bare(condition.args[1]), 0)
    return otherwise if zero and bare(condition.args[0]) == bare(otherwise.args[1]) else None


def reciprocal(node: Expr) -> Expr | None:
    """x of `1 / x`."""
    node = bare(node)
    return node.args[1] if node.op == "div" and is_number(node.args[0], 1) else None


def logistic(node: Expr) -> Expr | None:
    """x of `y / (1 + exp(-x))`."""
    _, bottom = node.args
    if bottom.op != "add" or len(bottom.args) != 2:
        return None
    one, power = bottom.args
    if not is_number(one, 1) or power.op != "exp" or power.args[0].op != "neg":
        return None
    return power.args[0].args[0]


def is_digits(node: Expr) -> bool:
    return bare(node).op == "number"


def number(node: Expr) -> Printed:
    value = node.attr
    if isinstance(value, bool):
        return f"<mtext>{'true' if value else 'false'}</mtext>", ATOM
    assert isinstance(value, (int, float))
    if value in (float("inf"), float("-inf")):
        text = "<mi>∞</mi>" if value > 0 else "<mrow><mo>\u2212</mo><mi>∞</mi></mrow>"
        return text, ATOM if value > 0 else SIGN
    digits = f"{abs(value):.12g}"
    if value < 0:
        return f"<mrow><mo>\u2212</mo><mn>{digits}</mn></mrow>", SIGN
    return f"<mn>{digits}</mn>", ATOM


def math(inner: str) -> str:
    return f'<math display="block"><mrow>{inner}</mrow></math>'


def identifier(name: str) -> str:
    """A name as one symbol; what follows a first underscore is its subscript."""
    head, _, tail = name.partition("_")
    if head and tail:
        return f"<msub>{identifier(head)}<mtext>{escape(tail)}</mtext></msub>"
    stem, digits = name.rstrip("0123456789"), ""
    if stem and stem != name and len(stem) <= 2:
        stem, digits = stem, name[len(stem) :]
        return f"<msub>{identifier(stem)}<mn>{digits}</mn></msub>"
    return f"<mi>{GREEK.get(name, escape(name))}</mi>"


def joined(parts: list[str]) -> str:
    return "<mo>,</mo>".join(parts)


TALL = ("<mfrac", "<munder", "<mtable", "<msqrt")


def fenced(inner: str) -> str:
    """In parentheses, which grow with what is tall only: browsers without a mathematical font grow
    them around every index."""
    grown = "" if any(tag in inner for tag in TALL) else ' stretchy="false"'
    return f"<mo{grown}>(</mo>{inner}<mo{grown}>)</mo>"
