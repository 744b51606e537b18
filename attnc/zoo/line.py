"""One equation as MathML: an array, a sign, an expression tree.

Outer axes are not written where they are filled by name, as in the language; a sum of products over
a width is a product of vectors; keys that a row sees are the set V, so that a fold over them is one
over V.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape

from attnc.expressions.index import Index
from attnc.expressions.text import expression_text
from attnc.expressions.tree import TRUE, Array, Expr, call, is_number, postorder
from attnc.zoo.forms import (
    AND,
    ATOM,
    COMPARE,
    ELSE,
    NOT,
    OR,
    OUTER,
    POWER,
    SIGN,
    SILENT,
    SUM,
    TERM,
    Printed,
    bare,
    case,
    cases,
    fenced,
    filled,
    identifier,
    is_digits,
    joined,
    logistic,
    math,
    number,
    ratio,
    reciprocal,
)

# An index that needs no comma beside others.
LETTER = re.compile(r"<mi[^>]*>.[\u2032-\u2034]?</mi>")
OWNED = re.compile(r"<msup>(<mi>.</mi>)(<mtext>[^<]*</mtext>)</msup>")  # a stage's mask or score
LARGEST = 3000  # nodes of an equation that is still typeset; beyond, its text stands
PRIMES = ("", "\u2032", "\u2033", "\u2034")
CLAUSES = {"mask": "V", "score": "s", "weight": "w"}
INFIX = {
    "add": ("+", SUM), "sub": ("\u2212", SUM), "mul": ("\u2062", TERM),
    "eq": ("=", COMPARE), "ne": ("≠", COMPARE), "lt": ("&lt;", COMPARE), "le": ("≤", COMPARE),
    "gt": (">", COMPARE), "ge": ("≥", COMPARE), "and": ("∧", AND), "or": ("\u2228", OR),
    "mod": ("mod", TERM),
}  # fmt: skip
FOLDS = {"sum": "∑", "prod": "∏", "max": "max", "min": "min"}
FENCES = {"abs": "||", "floor": "⌊⌋", "ceil": "⌈⌉"}


@dataclass(frozen=True)
class Known:
    """What an operator's masks are: those that hide nothing; the keys of each, by its array's
    name; what prefixes clauses' arrays have for their keys."""

    trivial: frozenset[str]
    keys: dict[str, tuple[str, ...]]
    names: frozenset[str]


class Line:
    """Prints one equation: its indices are told apart by primes."""

    def __init__(self, many: bool, known: Known) -> None:
        self.many, self.known = many, known
        self.primes: dict[Index, str] = {}

    def equation(self, array: Array, expr: Expr, sign: str = "=") -> str:
        """`array_ij = expr`."""
        self.name_all(array.indices, expr)
        shown = [self.index(index) for index in array.indices if index.name not in OUTER]
        left = self.subscripted(self.label(array), shown)
        nodes = sum(1 for _ in postorder(expr))
        if nodes > LARGEST:
            text = f"<mtext>{escape(expression_text(expr, 400))}</mtext>"
            return math(f"{left}<mo>{sign}</mo>{text}")
        return math(f"{left}<mo>{sign}</mo>{self.print(expr)[0]}")

    def name_all(self, first: tuple[Index, ...], expr: Expr) -> None:
        """Gives every index of the equation its primes, those of the left side first."""
        found = list(first)
        for node in postorder(expr):
            found += [node.attr] if isinstance(node.attr, Index) else list(node.bound)
        seen: dict[str, int] = {}
        for index in found:
            if index not in self.primes:
                count = seen.get(index.name, 0)
                seen[index.name] = count + 1
                self.primes[index] = PRIMES[min(count, 3)]

    def index(self, index: Index) -> str:
        primes = self.primes.get(index, "")
        slanted = ' class="index"' if primes and len(index.name) == 1 else ""
        return f"<mi{slanted}>{escape(index.name)}{primes}</mi>"

    def label(self, array: Array) -> str:
        """The symbol of an array."""
        *path, last = array.name.split(".")
        if last in CLAUSES:
            of_keys = bool(path) and path[-1] in self.known.names
            owner = path[:-1] if of_keys and not self.many else path
            symbol = f"<mi>{CLAUSES[last]}</mi>"
            if not owner:
                return symbol
            return f"<msup>{symbol}<mtext>{escape('.'.join(owner))}</mtext></msup>"
        return "<mi>o</mi>" if array.role == "output" and last == "out" else identifier(last)

    def subscripted(self, base: str, parts: list[str]) -> str:
        if not parts:
            return base
        plain = all(LETTER.fullmatch(part) for part in parts)
        comma = "<mo>&#x2063;</mo>" if plain else "<mo>,</mo>"
        inner = comma.join(parts)
        row = f"<mrow>{inner}</mrow>" if len(parts) > 1 or inner.count("<m") > 1 else inner
        owned = OWNED.fullmatch(base)
        if owned is not None:
            return f"<msubsup>{owned[1]}{row}{owned[2]}</msubsup>"
        return f"<msub>{base}{row}</msub>"

    # --- expressions ------------------------------------------------------------------------------

    def print(self, node: Expr) -> Printed:
        """The MathML of a tree, and how strongly it binds."""
        op, args = node.op, node.args
        if op in SILENT:
            return self.print(args[0])
        if op in ("and", "or", "add", "mul", "sub", "mod") or op in INFIX:
            return self.infix(node)
        special = getattr(self, f"_{op}", None)
        if special is not None:
            return special(node)  # type: ignore[no-any-return]
        if op in FENCES:
            left, right = FENCES[op][0], FENCES[op][1]
            return f"<mrow><mo>{left}</mo>{self.print(args[0])[0]}<mo>{right}</mo></mrow>", ATOM
        if not args:
            return self.leaf(node)
        return self.function(op, [self.print(arg)[0] for arg in args]), ATOM

    def function(self, name: str, parts: list[str]) -> str:
        inside = joined(parts)
        return f"<mrow><mi>{escape(name)}</mi>{fenced(inside)}</mrow>"

    def within(self, node: Expr, wanted: int) -> str:
        text, strength = self.print(node)
        return f"<mrow>{fenced(text)}</mrow>" if strength < wanted else text

    def infix(self, node: Expr) -> Printed:
        chain = self.chain(node)
        if chain is not None:
            return chain, COMPARE
        if node.op == "add" and is_number(bare(node.args[-1]), 0):
            return self.print(node.args[0])
        sign, strength = INFIX[node.op]
        if strength == COMPARE:
            left, right = (self.within(arg, COMPARE + 1) for arg in node.args)
            return f"<mrow>{left}<mo>{sign}</mo>{right}</mrow>", COMPARE
        below = reciprocal(node.args[-1]) if node.op == "mul" else None
        if below is not None:
            top = call("mul", *node.args[:-1]) if len(node.args) > 2 else node.args[0]
            return self._div(call("div", top, below))
        parts = [self.within(node.args[0], strength)]
        for arg in node.args[1:]:
            number = node.op == "mul" and is_digits(arg)
            shown = "·" if number else sign
            loose = arg is node.args[-1] and bare(arg).op == "fold" and strength in (SUM, TERM)
            again = bare(arg).op == node.op and node.op != "sub"
            wanted = (
                SUM if loose else strength + (not again and node.op not in ("and", "or", "add"))
            )
            parts.append(f"<mo>{shown}</mo>{self.within(arg, wanted)}")
        return f"<mrow>{''.join(parts)}</mrow>", strength

    def chain(self, node: Expr) -> str | None:
        """`a ≤ b < c` for two comparisons that meet."""
        if node.op != "and" or len(node.args) != 2:
            return None
        first, second = node.args
        if (
            INFIX.get(first.op, ("", 0))[1] != COMPARE
            or INFIX.get(second.op, ("", 0))[1] != COMPARE
        ):
            return None
        if first.args[1] != second.args[0]:
            return None
        texts = [self.within(x, COMPARE + 1) for x in (first.args[0], *second.args)]
        one, two = INFIX[first.op][0], INFIX[second.op][0]
        return f"<mrow>{texts[0]}<mo>{one}</mo>{texts[1]}<mo>{two}</mo>{texts[2]}</mrow>"

    def leaf(self, node: Expr) -> Printed:
        if isinstance(node.attr, Index):
            return self.index(node.attr), ATOM
        if node.op == "number":
            return number(node)
        if node.op in ("length", "start"):
            axis = f"<mi>{escape(str(getattr(node.attr, 'name', '')))}</mi>"
            if node.op == "start":
                return self.function("start", [axis]), ATOM
            return f"<mrow><mo>|</mo>{axis}<mo>|</mo></mrow>", ATOM
        return identifier(str(node.attr)), ATOM

    def _div(self, node: Expr) -> Printed:
        inner = logistic(node)
        if inner is not None:
            squashed = self.function("\u03c3", [self.print(inner)[0]])
            if is_number(node.args[0], 1):
                return squashed, ATOM
            top = self.within(node.args[0], TERM)
            return f"<mrow>{top}<mo>\u2062</mo>{squashed}</mrow>", TERM
        top, bottom = (self.print(arg)[0] for arg in node.args)
        return f"<mfrac><mrow>{top}</mrow><mrow>{bottom}</mrow></mfrac>", TERM

    def _floordiv(self, node: Expr) -> Printed:
        top, bottom = (self.print(arg)[0] for arg in node.args)
        fraction = f"<mfrac><mrow>{top}</mrow><mrow>{bottom}</mrow></mfrac>"
        return f"<mrow><mo>⌊</mo>{fraction}<mo>⌋</mo></mrow>", ATOM

    def _neg(self, node: Expr) -> Printed:
        return f"<mrow><mo>\u2212</mo>{self.within(node.args[0], TERM)}</mrow>", SIGN

    def _not(self, node: Expr) -> Printed:
        return f"<mrow><mo>¬</mo>{self.within(node.args[0], ATOM)}</mrow>", NOT

    def _pow(self, node: Expr) -> Printed:
        base = self.within(node.args[0], ATOM)
        return f"<msup>{base}<mrow>{self.print(node.args[1])[0]}</mrow></msup>", POWER

    def _exp(self, node: Expr) -> Printed:
        inner = self.print(node.args[0])[0]
        if inner.count("<m") <= 12 and "<mfrac" not in inner and "<munder" not in inner:
            return f"<msup><mi>e</mi><mrow>{inner}</mrow></msup>", POWER
        return self.function("exp", [inner]), ATOM

    def _sqrt(self, node: Expr) -> Printed:
        return f"<msqrt>{self.print(node.args[0])[0]}</msqrt>", ATOM

    def _where(self, node: Expr) -> Printed:
        forgiving = ratio(node)
        if forgiving is not None:
            return self._div(forgiving)
        rows, last = [], node
        while last.op == "where" and ratio(last) is None:
            condition, yes, otherwise = last.args
            rows.append(
                case(self.print(yes)[0], f"<mtext>if&#160;</mtext>{self.print(condition)[0]}")
            )
            last = bare(otherwise)
        rows.append(case(self.print(last)[0], "<mtext>otherwise</mtext>"))
        return cases(rows), ATOM

    def _default(self, node: Expr) -> Printed:
        inner, fallback = (self.print(arg)[0] for arg in node.args)
        inside = case(inner, "<mtext>within its array</mtext>")
        return cases([inside, case(fallback, "<mtext>otherwise</mtext>")]), ATOM

    def _read(self, node: Expr) -> Printed:
        shown = [
            self.print(position)[0]
            for position, axis in zip(node.args, node.array.axes, strict=True)
            if not filled(position, axis.name)
        ]
        if node.array.name in self.known.keys and shown:
            count = len(self.known.keys[node.array.name])
            rows, keys = shown[:-count], shown[-count:]
            seen = self.subscripted(self.label(node.array), rows)
            return f"<mrow>{joined(keys)}<mo>∈</mo>{seen}</mrow>", COMPARE
        return self.subscripted(self.label(node.array), shown), ATOM

    def _fold(self, node: Expr) -> Printed:
        condition, body = node.args
        product = self.product(node)
        if product is not None:
            return product, TERM
        sign = FOLDS[node.monoid]
        under = self.under(node.bound, condition)
        if sign.isalpha():
            inner = self.print(body)[0]
            head = f"<munder><mi>{sign}</mi>{under}</munder>"
            return f"<mrow>{head}{fenced(inner)}</mrow>", ATOM
        return f"<mrow><munder><mo>{sign}</mo>{under}</munder>{self.within(body, TERM)}</mrow>", SUM

    def under(self, bound: tuple[Index, ...], condition: Expr) -> str:
        """What stands under a fold: its indices, and the set or condition that they are from."""
        names = joined([self.index(index) for index in bound])
        parts = list(condition.args) if condition.op == "and" else [condition]
        masks = [part for part in parts if part.op == "read" and part.array.name in self.known.keys]
        others = [part for part in parts if part not in masks and part != TRUE]
        masks = [mask for mask in masks if mask.array.name not in self.known.trivial]
        shown = [self.print(mask)[0] for mask in masks] or [names]
        shown += [self.print(other)[0] for other in others]
        return f"<mrow>{joined(shown)}</mrow>"

    def product(self, node: Expr) -> str | None:
        """`q_i · k_j` for a sum over a width of the product of two reads that end in it."""
        condition, body = node.args
        if node.monoid != "sum" or condition != TRUE or body.op != "mul" or len(node.bound) != 1:
            return None
        width, texts = node.bound[0], []
        for factor in body.args:
            if factor.op != "read" or not factor.args or factor.args[-1].attr != width:
                return None
            if any(width in position.free for position in factor.args[:-1]):
                return None
            pairs = list(zip(factor.args, factor.array.axes, strict=True))[:-1]
            kept = [self.print(at)[0] for at, axis in pairs if not filled(at, axis.name)]
            texts.append(self.subscripted(self.label(factor.array), kept))
        return f"<mrow>{'<mo>·</mo>'.join(texts)}</mrow>"

    def _topk(self, node: Expr) -> Printed:
        return self.selection("top", node, [self.print(node.args[2])[0]]), ATOM

    def _rank(self, node: Expr) -> Printed:
        return self.selection("rank", node, []), ATOM

    def _argmax(self, node: Expr) -> Printed:
        return self.selection("argmax", node, []), ATOM

    def _argmin(self, node: Expr) -> Printed:
        return self.selection("argmin", node, []), ATOM

    def selection(self, name: str, node: Expr, more: list[str]) -> str:
        under = self.under(node.bound, node.args[0])
        inner = joined([self.print(node.args[1])[0], *more])
        head = f"<munder><mi>{name}</mi>{under}</munder>"
        return f"<mrow>{head}{fenced(inner)}</mrow>"

    def _solve(self, node: Expr) -> Printed:
        low, high, left, right = (self.print(arg)[0] for arg in node.args)
        name = identifier(str(node.attr))
        text = (
            f"<mtext>the&#160;</mtext>{name}<mo>∈</mo><mo>[</mo>{low}<mo>,</mo>{high}<mo>]</mo>"
            f"<mtext>&#160;with&#160;</mtext>{left}<mo>=</mo>{right}"
        )
        return f"<mrow>{text}</mrow>", ELSE

    def _random(self, node: Expr) -> Printed:
        return f"<mrow><mi>random</mi>{fenced('')}</mrow>", ATOM

    def _stop(self, node: Expr) -> Printed:
        return self.function("sg", [self.print(node.args[0])[0]]), ATOM

    def _grad(self, node: Expr) -> Printed:
        at = [self.print(position)[0] for position in node.args[1:]]
        below = self.subscripted(self.label(node.array), at[-2:])
        top = f"<mo>∂</mo>{self.within(node.args[0], ATOM)}"
        return f"<mfrac><mrow>{top}</mrow><mrow><mo>∂</mo>{below}</mrow></mfrac>", TERM
