"""Captured Python numbers that remember their name.

A mod sees an int or float like any other; arithmetic gives another such number with the formula it
came from, so that `window // 2` is printed as that. Whoever asks for the value itself (a
comparison, `range`, an index) fixes the names in it: they are printed as numbers then, since the
trace holds for this value alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from attnc.flex.terms import Kind, Term, Terms

OPERATIONS = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "truediv": operator.truediv,
    "floordiv": operator.floordiv, "mod": operator.mod, "pow": operator.pow,
}  # fmt: skip
TERM_OF = {"truediv": "div"}
ASKING = (
    "__bool__", "__index__", "__int__", "__float__", "__hash__", "__lt__", "__le__", "__gt__",
    "__ge__", "__eq__", "__ne__", "__floor__", "__ceil__", "__trunc__", "__round__", "__divmod__",
    "__str__", "__format__", "__and__", "__or__", "__xor__", "__lshift__", "__rshift__",
    "__rand__", "__ror__", "__rlshift__", "__rrshift__", "__invert__", "__abs__",
    "is_integer", "bit_length",
)  # fmt: skip


class Book:
    """What is known of the captured numbers of one trace: names, values, which are fixed."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.values: dict[str, int | float] = {}
        self.fixed: set[str] = set()

    def symbol(self, name: str, value: int | float) -> int | float:
        """A number with this name; one that two variables share by name and value is one."""
        taken = name
        count = 1
        while self.values.get(taken, value) != value or (
            taken in self.values and type(self.values[taken]) is not type(value)
        ):
            count += 1
            taken = f"{name}{count}"
        self.values[taken] = value
        kind: Kind = "int" if isinstance(value, int) else "real"
        return self.wrap(self.terms.make("param", value=taken, kind=kind), value)

    def wrap(self, term: Term, value: int | float) -> int | float:
        """A number with the formula it came from."""
        made = SymbolInt(value) if isinstance(value, int) else SymbolFloat(value)
        made.term, made.book = term, self
        return made

    def fix(self, term: Term) -> None:
        """The value of a term was asked for: its names keep theirs."""
        stack = [term]
        while stack:
            top = stack.pop()
            if top.op == "param":
                self.fixed.add(str(top.value))
            stack.extend(top.args)

    def plain(self, value: Any) -> Any:
        """The Python number itself, its names fixed."""
        if isinstance(value, (SymbolInt, SymbolFloat)):
            self.fix(value.term)
            return int.__int__(value) if isinstance(value, int) else float.__float__(value)
        return value


class SymbolInt(int):
    """A whole number that has a formula."""

    term: Term
    book: Book


class SymbolFloat(float):
    """A real number that has a formula."""

    term: Term
    book: Book


Symbol = (SymbolInt, SymbolFloat)


def bare(value: Any) -> Any:
    """A number without its formula, nothing fixed."""
    if isinstance(value, SymbolInt):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, SymbolFloat) else value


def _operation(name: str, turned: bool) -> Callable[[Any, Any], Any]:
    compute = OPERATIONS[name]

    def method(self: Any, other: Any) -> Any:
        if isinstance(other, bool) or not isinstance(other, (int, float)):
            return NotImplemented
        book: Book = self.book
        terms = book.terms
        theirs = other.term if isinstance(other, Symbol) else terms.number(other)
        left, right = (theirs, self.term) if turned else (self.term, theirs)
        one, two = (bare(other), bare(self)) if turned else (bare(self), bare(other))
        value = compute(one, two)
        op = TERM_OF.get(name, name)
        real = isinstance(one, float) or isinstance(two, float)
        if not isinstance(value, (int, float)) or (real and op in ("floordiv", "mod")):
            book.fix(self.term)
            return value
        if op == "pow" and isinstance(value, float) and not real:  # 2 ** -1
            book.fix(self.term)
            return value
        return book.wrap(terms.arithmetic(op, left, right), value)

    return method


def _asking(base: type, name: str) -> Callable[..., Any]:
    original = getattr(base, name)

    def method(self: Any, *args: Any) -> Any:
        self.book.fix(self.term)
        return original(self, *(self.book.plain(arg) for arg in args))

    return method


def _equip(cls: type, base: type) -> None:
    for name in OPERATIONS:
        setattr(cls, f"__{name}__", _operation(name, turned=False))
        setattr(cls, f"__r{name}__", _operation(name, turned=True))
    for name in ASKING:
        if hasattr(base, name):
            setattr(cls, name, _asking(base, name))
    for name, method in (("__neg__", _negated), ("__repr__", _shown)):
        setattr(cls, name, method)


def _negated(self: Any) -> Any:
    return self.book.wrap(self.book.terms.negative(self.term), -bare(self))


def _shown(self: Any) -> str:
    return repr(bare(self))


_equip(SymbolInt, int)
_equip(SymbolFloat, float)
