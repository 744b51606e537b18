"""Scalar terms: what a traced mod computes at one point, in the operations of the language.

A term is one number or truth. Equal terms of one trace are one object (`Terms` sees to it), so that
what a mod computes twice is found again. A value with dimensions is a term with a free `Dim` for
each of them, as vectors are in a Spec.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["bool", "int", "real"]


@dataclass(frozen=True, eq=False)
class Table:
    """A captured tensor, as the text will read it. `order`: which in the order of first use."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    order: int


@dataclass(frozen=True, eq=False)
class Dim:
    """A dimension of a traced value; `home` is the dimension of a table that it is all of."""

    size: int
    home: tuple[Table, int] | None = None


Payload = None | bool | int | float | str | Table | Dim


@dataclass(frozen=True, eq=False)
class Term:
    """One node.

    number   value is a bool, int or float          index   value is b, h, i or j
    param    value is its name                      score   the scaled product of query and key
    dim      value is a Dim: its free position      read    value is a Table, args are positions
    fold     args are the body; value is its Dim, `name` the fold: sum, prod, max, min, any, all
    call     `name` is a function of the language   others: an operation of the same name
    """

    op: str
    args: tuple[Term, ...]
    value: Payload
    kind: Kind
    name: str = ""
    free: frozenset[Dim] = field(default=frozenset(), repr=False)
    leaves: frozenset[str] = field(default=frozenset(), repr=False)  # of b, h, i, j, score
    size: int = 1


ARITHMETIC = ("add", "sub", "mul", "div", "floordiv", "mod", "pow")
COMPARISON = ("eq", "ne", "lt", "le", "gt", "ge")


class Terms:
    """Makes terms; equal ones once."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], Term] = {}

    def make(
        self,
        op: str,
        *args: Term,
        value: Payload = None,
        kind: Kind = "int",
        name: str = "",
    ) -> Term:
        """The term of these parts."""
        key = (op, *map(id, args), type(value), repr(value) if _plain(value) else id(value), name)
        found = self._made.get(key)
        if found is not None:
            return found
        free = frozenset(dim for arg in args for dim in arg.free)
        leaves = frozenset(leaf for arg in args for leaf in arg.leaves)
        if op == "dim":
            assert isinstance(value, Dim)
            free = frozenset((value,))
        if op == "fold":
            free = frozenset(dim for dim in free if dim is not value)
        if op in ("index", "score"):
            leaves = frozenset((str(value or "score"),))
        size = 1 + sum(arg.size for arg in args)
        made = Term(op, args, value, kind, name, free, leaves, size)
        self._made[key] = made
        return made

    def number(self, value: bool | int | float) -> Term:
        """A constant."""
        kind: Kind = (
            "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "real"
        )
        return self.make("number", value=value, kind=kind)

    def call(self, name: str, *args: Term, kind: Kind = "real") -> Term:
        """A function of the language."""
        return self.make("call", *args, kind=kind, name=name)

    def arithmetic(self, op: str, left: Term, right: Term) -> Term:
        """`+ - * / // % **` of numbers, without what adds nothing."""
        kind: Kind = "real" if op == "div" or "real" in (left.kind, right.kind) else "int"
        if op == "add" and is_number(left, 0) and right.kind == kind:
            return right
        if op in ("add", "sub") and is_number(right, 0) and left.kind == kind:
            return left
        if op in ("mul", "div", "floordiv") and is_number(right, 1) and left.kind == kind:
            return left
        if op == "mul" and is_number(left, 1) and right.kind == kind:
            return right
        if op == "add" and right.op == "neg":
            return self.arithmetic("sub", left, right.args[0])
        if op == "add" and is_number(right) and _value(right) < 0:
            return self.arithmetic("sub", left, self.number(-_value(right)))
        return self.make(op, left, right, kind=kind)

    def negative(self, term: Term) -> Term:
        """`-x`."""
        if is_number(term):
            return self.number(-_value(term))
        return term.args[0] if term.op == "neg" else self.make("neg", term, kind=term.kind)

    def compare(self, op: str, left: Term, right: Term) -> Term:
        """A comparison; a bare `i >= j` is turned, as people write it."""
        turned = {"ge": "le", "gt": "lt"}
        at_row = left.op == "index" and left.value == "i"
        if op in turned and (at_row or is_number(left)) and right.leaves:
            op, left, right = turned[op], right, left
        return self.make(op, left, right, kind="bool")

    def truth(self, term: Term) -> Term:
        """A truth: numbers are compared with 0."""
        if term.kind == "bool":
            return term
        if is_number(term):
            return self.number(bool(term.value))
        return self.compare("ne", term, self.number(_zero(term.kind)))

    def counted(self, term: Term) -> Term:
        """A number: truths are 1 and 0."""
        if term.kind != "bool":
            return term
        if term.op == "number":
            return self.number(int(bool(term.value)))
        return self.where(term, self.number(1), self.number(0))

    def where(self, condition: Term, yes: Term, no: Term) -> Term:
        """`where(c, a, b)`."""
        if condition.op == "number":
            return yes if condition.value else no
        if yes.kind != no.kind:
            yes, no = self.counted(yes), self.counted(no)
        kind: Kind = "real" if "real" in (yes.kind, no.kind) else yes.kind
        if kind == "bool":
            return self.either(self.both(condition, yes), self.both(self.negation(condition), no))
        return self.make("where", condition, yes, no, kind=kind)

    def both(self, left: Term, right: Term) -> Term:
        """`and`."""
        return self._joined("and", left, right, neutral=True)

    def either(self, left: Term, right: Term) -> Term:
        """`or`."""
        return self._joined("or", left, right, neutral=False)

    def _joined(self, op: str, left: Term, right: Term, neutral: bool) -> Term:
        for one, other in ((left, right), (right, left)):
            if one.op == "number":
                return other if bool(one.value) == neutral else one
        return left if left is right else self.make(op, left, right, kind="bool")

    def negation(self, term: Term) -> Term:
        """`not`; a comparison of whole numbers is turned round (of reals NaN forbids it)."""
        if term.op == "number":
            return self.number(not term.value)
        if term.op == "not":
            return term.args[0]
        turned = {"eq": "ne", "ne": "eq", "lt": "ge", "ge": "lt", "gt": "le", "le": "gt"}
        if term.op in turned and all(arg.kind == "int" for arg in term.args):
            return self.compare(turned[term.op], *term.args)
        return self.make("not", term, kind="bool")

    def replaced(self, root: Term, exchange: dict[Term, Term]) -> Term:
        """The term with others in the place of some of its nodes."""
        done = dict(exchange)
        for node in postorder(root):
            if node in done:
                continue
            args = tuple(done[arg] for arg in node.args)
            same = all(one is other for one, other in zip(args, node.args, strict=True))
            done[node] = (
                node
                if same
                else self.make(node.op, *args, value=node.value, kind=node.kind, name=node.name)
            )
        return done[root]


def postorder(*roots: Term) -> Iterator[Term]:
    """Every node under the roots once, operands first."""
    seen: set[Term] = set()
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if node in seen:
            continue
        if ready:
            seen.add(node)
            yield node
            continue
        stack.append((node, True))
        stack.extend((arg, False) for arg in reversed(node.args))


def is_number(term: Term, wanted: float | None = None) -> bool:
    """Whether a term is a constant number (and equals `wanted`)."""
    if term.op != "number" or isinstance(term.value, bool):
        return False
    return wanted is None or term.value == wanted


def _value(term: Term) -> int | float:
    assert isinstance(term.value, (int, float))
    return term.value


def _zero(kind: Kind) -> int | float:
    return 0.0 if kind == "real" else 0


def _plain(value: Payload) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
