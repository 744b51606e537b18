"""Folds over keys that share a number, and the numbers that such groups have.

    l // size == j // size              counted from the first key's group on
    where(own, -1, l // size) == ...    what is said of the others first
    clamp(kind[l], 0, 7) == kind[j]     numbers between ends that lengths and params say

does      recognises the folds; numbers their groups from 0, and says how many there may be
needs     conditions as the Spec has them
does not  count what data decides without ends; sort keys
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

from attnc.expressions.index import Axis, Index
from attnc.expressions.places import ends_of
from attnc.expressions.tree import Expr, number, position, postorder, substitute
from attnc.graph import conjuncts
from attnc.passes.constants import identity
from attnc.passes.simplify import make

Ends = tuple[Expr | None, Expr | None]
NOTHING: Ends = (None, None)


@dataclass(frozen=True)
class Fold:
    """A fold over the keys `bound` whose number `group` is `label`, where `conditions` hold.
    `asking`: the indices that only the label has (none: a fold over all keys of a row)."""

    node: Expr
    bound: Index
    conditions: tuple[Expr, ...]
    group: Expr | None = None
    label: Expr | None = None
    asking: frozenset[Index] = frozenset()


def grouped_fold(node: Expr, keys: Container[Axis], rows: Container[Axis]) -> Fold | None:
    """The node as a fold over the keys of a row that share a number with another key, or that have
    a number given by an index; None of any other."""
    if node.op not in ("fold", "argmax", "argmin") or len(node.bound) != 1:
        return None
    (bound,) = node.bound
    if bound.axis not in keys or bound.axis in rows:
        return None
    if not any(index.axis in rows for index in node.free):
        return None
    if any(below.op in ("unknown", "default") for below in postorder(node)):
        return None
    tests = conjuncts(node.args[0])
    for test in tests:
        rest = tuple(other for other in tests if other is not test)
        for group, label in (test.args, test.args[::-1]) if test.op == "eq" else ():
            if bound not in group.free or bound in label.free or group.kind != "int":
                continue
            asking = _asking(label, bound, group, rows)
            others = node.args[1].free.union(*(one.free for one in rest))
            if asking and not asking & others:
                return Fold(node, bound, rest, group, label, asking)
    return None


def _asking(
    label: Expr, bound: Index, group: Expr, rows: Container[Axis]
) -> frozenset[Index] | None:
    """The indices by which a number is asked for: another key, or an index of its own."""
    own = frozenset(i for i in label.free - group.free if i.axis not in rows)
    if len(own) != 1:
        return None
    (index,) = own
    if index.axis is bound.axis:
        return own if group.op != "index" else None
    plain = label.op == "index" and index.axis.form in ("range", "measured")
    return own if plain and index.axis.name not in ("b", "h") else None


@dataclass(frozen=True)
class Groups:
    """The numbers of the groups as an index, and the test that a key is of a group; `numbers` where
    the index was made for them."""

    index: Index
    test: Expr
    numbers: Numbers | None = None

    @property
    def made(self) -> bool:
        return self.numbers is not None

    @staticmethod
    def of(fold: Fold, fresh: Callable[[str], str]) -> Groups | None:
        """None where nothing says how many groups there are."""
        assert fold.group is not None and fold.label is not None
        (asking,) = fold.asking
        if asking.axis is not fold.bound.axis:
            return Groups(asking, make("eq", fold.group, position(asking)))
        found = _numbers(fold.group, fold.bound)
        if found is None or (found.first is None and not _asks_for_its_own(fold)):
            return None
        axis = Axis(fresh("groups"), "range", number(0), found.count)
        index = Index(axis.name, axis)
        return Groups(index, found.test(position(index)), found)

    def read(self, value: Expr, fold: Fold) -> Expr:
        """The statistic `value` at the group that a fold asks for; over nothing where that is
        none."""
        (asking,) = fold.asking
        if self.numbers is None:
            return substitute(value, {self.index: position(asking)})
        if _asks_for_its_own(fold):
            asked = substitute(self.numbers.at, {fold.bound: position(asking)})
            return substitute(value, {self.index: asked})
        assert self.numbers.first is not None and fold.label is not None
        asked = make("sub", fold.label, self.numbers.first)
        among = make("le", number(0), asked)
        among = make("and", among, make("lt", asked, self.numbers.count))
        last = make("sub", self.numbers.count, number(1))
        near = make("max", make("min", asked, last), number(0))
        found = substitute(value, {self.index: near})
        whole = fold.node.op == "fold"
        nothing = identity(fold.node.monoid, value.kind) if whole else number(-1)
        return make("where", among, found, nothing)


def _asks_for_its_own(fold: Fold) -> bool:
    """Whether a key asks for the group that it is of."""
    (asking,) = fold.asking
    return fold.group is not None and fold.label == substitute(
        fold.group, {fold.bound: position(asking)}
    )


@dataclass(frozen=True)
class Numbers:
    """Numbers from 0 on: `at` of a key, fewer than `count`; `first` where they are those of the
    text less it; `parts`: a choice, its two sides."""

    at: Expr
    count: Expr
    first: Expr | None = None
    parts: tuple[Expr, Expr, Expr] | None = None

    def test(self, wanted: Expr) -> Expr:
        """Whether a key has a number; choices are taken apart, for tiles are judged by each."""
        if self.parts is None:
            return make("eq", self.at, wanted)
        chosen, yes, no = self.parts
        yes = make("and", chosen, make("eq", yes, wanted))
        return make("or", yes, make("and", make("not", chosen), make("eq", no, wanted)))


def _numbers(group: Expr, key: Index) -> Numbers | None:
    """The numbers of the groups of keys."""
    if group.op == "where":
        return _of_choice(group, key)
    low, high = ends(group)
    if low is not None and high is not None:
        count = make("add", make("sub", high, low), number(1))
        return Numbers(make("sub", group, low), count, low)
    return _of_run(group, key)


def _of_run(group: Expr, key: Index) -> Numbers | None:
    """j // size of keys whose first position is known to the call alone."""
    if group.op != "floordiv" or group.args[0] != position(key) or not _plain(group.args[1]):
        return None
    first, length = ends_of(key.axis)
    size = group.args[1]
    base = make("floordiv", first, size)
    more = make("floordiv", make("add", length, make("sub", size, number(2))), size)
    return Numbers(make("sub", group, base), make("add", more, number(1)), base)


def _of_choice(group: Expr, key: Index) -> Numbers | None:
    """where(c, x, y): the numbers of x, then those of y; what x has in common with y is y's."""
    chosen, yes, no = group.args
    one, other = _numbers(yes, key), _numbers(no, key)
    if one is None or other is None or one.parts or other.parts:
        return None
    if other.first is None or one.first is None:
        return None
    shared = make("sub", yes, other.first)
    inside = make("and", make("le", number(0), shared), make("lt", shared, other.count))
    left = make("where", inside, make("add", one.count, shared), one.at)
    right = make("add", one.count, other.at)
    at = make("where", chosen, left, right)
    count = make("add", one.count, other.count)
    return Numbers(at, count, None, (chosen, left, right))


def ends(expr: Expr) -> Ends:
    """The least and the greatest that an integer may be, as expressions of numbers and lengths;
    None where nothing says it."""
    known: dict[bytes, Ends] = {}
    for node in postorder(expr):
        known[node.digest] = _ends(node, [known[arg.digest] for arg in node.args])
    return known[expr.digest]


def _ends(node: Expr, args: list[Ends]) -> Ends:
    if node.kind != "int":
        return NOTHING
    if node.op in ("number", "param", "length"):
        return node, node
    if node.op == "index" and isinstance(node.attr, Index):
        if node.attr.axis.shifted:
            return NOTHING
        first, length = ends_of(node.attr.axis)
        return first, make("sub", make("add", first, length), number(1))
    if node.op in ("floordiv", "mod"):
        return _divided(node, args[0])
    rule = {"add": _sum, "sub": _difference, "min": _least, "max": _greatest, "where": _either}
    return rule[node.op](args) if node.op in rule else NOTHING


def _plain(size: Expr) -> bool:
    """A divisor: positive, or the call is refused."""
    if size.op == "number":
        return isinstance(size.attr, int) and size.attr > 0
    return size.op == "param"


def _divided(node: Expr, inner: Ends) -> Ends:
    size = node.args[1]
    if not _plain(size):
        return NOTHING
    if node.op == "mod":
        return number(0), make("sub", size, number(1))
    low, high = (None if end is None else make("floordiv", end, size) for end in inner)
    return low, high


def _join(op: str, one: Expr | None, other: Expr | None) -> Expr | None:
    return None if one is None or other is None else make(op, one, other)


def _sum(args: list[Ends]) -> Ends:
    low, high = args[0]
    for more in args[1:]:
        low, high = _join("add", low, more[0]), _join("add", high, more[1])
    return low, high


def _difference(args: list[Ends]) -> Ends:
    (low, high), (least, most) = args
    return _join("sub", low, most), _join("sub", high, least)


def _nearest(op: str, ends: list[Expr | None]) -> Expr | None:
    """An end that one side alone decides."""
    known = [end for end in ends if end is not None]
    if not known:
        return None
    found = known[0]
    for end in known[1:]:
        found = make(op, found, end)
    return found


def _farthest(op: str, ends: list[Expr | None]) -> Expr | None:
    return None if None in ends else _nearest(op, ends)


def _least(args: list[Ends]) -> Ends:
    return _farthest("min", [low for low, _ in args]), _nearest("min", [high for _, high in args])


def _greatest(args: list[Ends]) -> Ends:
    return _nearest("max", [low for low, _ in args]), _farthest("max", [high for _, high in args])


def _either(args: list[Ends]) -> Ends:
    return (
        _farthest("min", [low for low, _ in args[1:]]),
        _farthest("max", [high for _, high in args[1:]]),
    )


__all__ = ["Fold", "Groups", "ends", "grouped_fold"]
