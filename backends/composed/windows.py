"""Sums and extremes over windows, of which a library knows the convolution and the pooling.

    sum(u, w: taps[u, w] * (x[(r.y * s + u - a, r.x * s + w - b)] else 0))     Windowed, with taps
    max(u < 3: x[r + u - 1] else -inf)                                         Windowed, without

On a line or on a map, in steps and with gaps; channels may be kept, summed or made anew. What is
read beyond the border is what the fold does not see: 0 of a sum, -inf of a maximum.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce

from attnc.expressions.index import Axis, Index
from attnc.expressions.places import size_of
from attnc.expressions.tree import (
    TRUE,
    Expr,
    call,
    fold,
    is_number,
    length,
    number,
    number_of,
    position,
    postorder,
    rewrite,
    start,
)
from attnc.graph import conjuncts

NOTHING = {"sum": 0.0, "max": float("-inf"), "min": float("inf")}
MOST_TERMS = 4
ZERO, ONE = number(0), number(1)


@dataclass(frozen=True)
class Step:
    """One coordinate of the place that is read: `stride * result + step * tap + first`.

    size, results    how many points and results the coordinate has"""

    tap: Index | None
    size: Expr
    results: Expr
    stride: Expr
    step: Expr
    first: Expr

    @property
    def numbers(self) -> tuple[Expr, ...]:
        count = ONE if self.tap is None else length(self.tap.axis)
        return (self.size, self.results, count, self.stride, self.step, self.first)


@dataclass(frozen=True)
class Windowed:
    """The fold of `moved`, a function of `place`, times `taps`, if any, for the points `results`:
    one index of a map or a line, or one for each coordinate. `summed` are what is bound beside the
    window."""

    how: str
    moved: Expr
    place: Index
    taps: Expr | None
    results: tuple[Index, ...]
    steps: tuple[Step, ...]
    summed: frozenset[Index]

    @property
    def operands(self) -> tuple[Expr, ...]:
        numbers = (each for step in self.steps for each in step.numbers)
        return (*numbers, self.moved, *(() if self.taps is None else (self.taps,)))

    @property
    def shifted(self) -> bool:
        """Whether a call may have some points of a map alone."""
        axes = (self.place.axis, *(index.axis for index in self.results))
        return any(axis.form == "product" and axis.shifted for axis in axes)


@dataclass(frozen=True)
class Term:
    """Factors, and the conditions under which they are not 0."""

    conditions: tuple[Expr, ...]
    factors: tuple[Expr, ...]

    def times(self, other: Term) -> Term:
        return Term(self.conditions + other.conditions, self.factors + other.factors)


def windowed(node: Expr) -> Windowed | None:
    """The form of a fold over a window; None where it is none."""
    if node.op != "fold" or node.kind != "real" or node.args[0] != TRUE:
        return None
    if node.monoid == "sum":
        terms = terms_of(node.args[1], set(node.bound), node.free)
        return _of_term(node, terms[0]) if len(terms) == 1 else None
    return _extreme(node) if node.monoid in NOTHING else None


def apart(node: Expr) -> Expr:
    """A sum over windows of several terms as a sum of such sums; other folds as they are."""
    if node.op != "fold" or node.kind != "real" or node.args[0] != TRUE or node.monoid != "sum":
        return node
    terms = terms_of(node.args[1], set(node.bound), node.free)
    if not 1 < len(terms) <= MOST_TERMS or any(_of_term(node, term) is None for term in terms):
        return node
    parts = [fold("sum", node.bound, _product_of(term)) for term in terms]
    return reduce(lambda left, right: call("add", left, right), parts)


def terms_of(body: Expr, bound: set[Index], points: frozenset[Index]) -> list[Term]:
    """A body as a sum of products. What reads no window stays whole."""
    if not any(_is_moving(node, bound, points) for node in postorder(body)):
        return [Term((), (body,))]
    if body.op == "add":
        return [term for arg in body.args for term in terms_of(arg, bound, points)]
    if body.op == "mul":
        left, right = (terms_of(arg, bound, points) for arg in body.args)
        return [one.times(other) for one in left for other in right]
    if body.op == "where" and is_number(body.args[2], 0):
        tests = tuple(conjuncts(body.args[0]))
        return [
            Term(tests + t.conditions, t.factors) for t in terms_of(body.args[1], bound, points)
        ]
    return [Term((), (body,))]


def _product_of(term: Term) -> Expr:
    body = reduce(lambda left, right: call("mul", left, right), term.factors)
    if not term.conditions:
        return body
    test = reduce(lambda left, right: call("and", left, right), term.conditions)
    return call("where", test, body, number(0.0))


def _is_moving(node: Expr, bound: set[Index], points: frozenset[Index]) -> bool:
    """A read at a place that bound indices and points decide together."""
    return node.op == "read" and any(_moves(at, bound, points) for at in node.args)


def _moves(at: Expr, bound: set[Index], points: frozenset[Index]) -> bool:
    """Whether a place is of both; indices that something within binds are neither."""
    return bool(at.free & bound and at.free & points) and at.free <= bound | points


def _extreme(node: Expr) -> Windowed | None:
    body = node.args[1]
    tests: list[Expr] = []
    while body.op == "where" and is_number(body.args[2], NOTHING[node.monoid]):
        tests += conjuncts(body.args[0])
        body = body.args[1]
    return _of_term(node, Term(tuple(tests), (body,)))


def _of_term(node: Expr, term: Term) -> Windowed | None:
    bound = set(node.bound)
    found = _place_of(term.factors, bound, node.free)
    if found is None:
        return None
    at, index = found
    read = _steps_of(at, index.axis, bound)
    if read is None:
        return None
    results, steps, coordinates = read
    borders = _borders(at, index.axis, coordinates)
    tests = [test for test in term.conditions if test not in borders]
    if any(test.free & set(results) for test in tests):
        return None
    place = replace(index, name=f"place of {index.name}")
    moving = [f for f in term.factors if any(at in n.args for n in postorder(f) if n.op == "read")]
    moved = _product(rewrite(f, lambda e: position(place) if e == at else e) for f in moving)
    others = [factor for factor in term.factors if factor not in moving]
    if tests:  # what else a tap depends on
        test = reduce(lambda left, right: call("and", left, right), tests)
        others = [call("where", test, _product(others), number(0.0))] if others else [test]
    taps = _product(others) if others else None
    summed = bound - {step.tap for step in steps}
    form = Windowed(node.monoid, moved, place, taps, results, steps, frozenset(summed))
    return form if _is_plain(form) else None


def _is_plain(form: Windowed) -> bool:
    """Whether a library's convolution or pooling is this: taps do not see the results, the moved
    does not see taps, and what else is summed is in both."""
    window = {step.tap for step in form.steps if step.tap is not None}
    seen = window | set(form.results)
    if form.moved.free & seen or any(n.free or _reads(n) for s in form.steps for n in s.numbers):
        return False
    if form.taps is not None and form.taps.kind != "real":
        return False
    if form.taps is None:
        return not form.summed
    if form.how != "sum" or form.taps.free & set(form.results):
        return False
    return form.summed <= form.taps.free & form.moved.free and bool(form.taps.free & window)


def _reads(expr: Expr) -> bool:
    return any(node.op == "read" for node in postorder(expr))


def _product(factors: Iterable[Expr]) -> Expr:
    return reduce(lambda left, right: call("mul", left, right), factors)


def _place_of(
    factors: tuple[Expr, ...], bound: set[Index], points: frozenset[Index]
) -> tuple[Expr, Index] | None:
    """The one place at which everything that moves is read, and the index of that dimension."""
    found: dict[bytes, tuple[Expr, Index]] = {}
    axes: set[Axis] = set()
    for node in postorder(*factors):
        if not _is_moving(node, bound, points):
            continue
        for at, index in zip(node.args, node.array.indices, strict=True):
            if _moves(at, bound, points):
                found[at.digest] = (at, index)
                axes.add(index.axis)
    return next(iter(found.values())) if len(found) == 1 and len(axes) == 1 else None


# --- places ---------------------------------------------------------------------------------------


Read = tuple[tuple[Index, ...], tuple[Step, ...], list[Expr]]


def _steps_of(at: Expr, axis: Axis, bound: set[Index]) -> Read | None:
    """The results and steps of a place, and its coordinates."""
    coordinates = _coordinates(at, axis)
    points = sorted(at.free - bound, key=str)
    if coordinates is None or len(points) not in (1, len(coordinates)):
        return None
    atoms = {each.digest: (each, size) for i in points for each, size in _own_coordinates(i)}
    varying = at.free
    steps, used = [], []
    sizes = [length(axis)] if axis.form != "product" else [size_of(part) for part in axis.parts]
    for coordinate, size in zip(coordinates, sizes, strict=True):
        terms = _linear(coordinate, atoms, bound, varying)
        if terms is None:
            return None
        own = [key for key in terms if key in atoms]
        taps = [key for key in terms if isinstance(key, Index)]
        if len(own) != 1 or len(taps) > 1:
            return None
        used.append(own[0])
        tap = taps[0] if taps else None
        step = terms[tap] if tap is not None else ONE
        first = terms.get(None, ZERO)
        steps.append(Step(tap, size, atoms[own[0]][1], terms[own[0]], step, first))
    window = [step.tap for step in steps if step.tap is not None]
    if len(set(window)) != len(window) or sorted(used) != sorted(atoms):
        return None
    if len(points) == 1 and used != list(atoms):
        return None
    if len(points) == len(coordinates) and all(i.axis.form != "product" for i in points):
        starts = [_first(atoms[key][0].attr.axis) for key in used]  # type: ignore[union-attr]
        steps = [
            replace(s, first=_plus(s.first, _times(s.stride, at)))
            for s, at in zip(steps, starts, strict=True)
        ]
        points = [atoms[key][0].attr for key in used]  # type: ignore[misc]
    if axis.form != "product":
        steps = [replace(steps[0], first=_plus(steps[0].first, _negative(_first(axis))))]
    return tuple(points), tuple(steps), coordinates


def _coordinates(at: Expr, axis: Axis) -> list[Expr] | None:
    """A place on a map, row-major, taken apart; on a line the place itself."""
    if axis.form != "product":
        return [at]
    found: list[Expr] = []
    for part in reversed(axis.parts[1:]):
        if at.op != "add" or at.args[0].op != "mul" or at.args[0].args[1] != size_of(part):
            return None
        found.append(at.args[1])
        at = at.args[0].args[0]
    plain = all(part.low is None or is_number(part.low, 0) for part in axis.parts)
    return [at, *reversed(found)] if plain else None


def _own_coordinates(index: Index) -> list[tuple[Expr, Expr]]:
    """The coordinates of an index as the language writes them, with their sizes."""
    axis = index.axis
    if axis.form != "product":
        return [(position(index), length(axis))]
    found = []
    for place, part in enumerate(axis.parts):
        at = position(index)
        if place + 1 < len(axis.parts):
            at = call("floordiv", at, _product(map(size_of, axis.parts[place + 1 :])))
        if place:
            at = call("mod", at, size_of(part))
        found.append((at, size_of(part)))
    return found


def _first(axis: Axis) -> Expr:
    return start(axis) if axis.shifted or axis.low is not None else ZERO


def _borders(at: Expr, axis: Axis, coordinates: list[Expr]) -> set[Expr]:
    """What a read within its array has true."""
    end = call("add", start(axis), length(axis))
    found = {call("le", start(axis), at), call("lt", at, end)}
    if axis.form == "product":
        for coordinate, part in zip(coordinates, axis.parts, strict=True):
            found |= {call("ge", coordinate, ZERO), call("lt", coordinate, size_of(part))}
    return found


Key = bytes | Index | None
Terms = dict[Key, Expr]


def _linear(
    expr: Expr, atoms: dict[bytes, tuple[Expr, Expr]], bound: set[Index], varying: frozenset[Index]
) -> Terms | None:
    """An integer as a sum of coordinates and bound indices with constant factors; the rest is at
    None."""
    if expr.digest in atoms:
        return {expr.digest: ONE}
    if not expr.free & varying:
        return {None: expr}
    if expr.op == "index" and isinstance(expr.attr, Index):
        return {expr.attr: ONE} if expr.attr in bound else None
    if expr.op not in ("add", "sub", "neg", "mul"):
        return None
    parts = [_linear(arg, atoms, bound, varying) for arg in expr.args]
    known = [part for part in parts if part is not None]
    if len(known) != len(parts):
        return None
    if expr.op == "mul":
        constants = [part.get(None, ZERO) for part in known if set(part) <= {None}]
        moving = [part for part in known if not set(part) <= {None}]
        if len(moving) != 1:
            return None
        return {key: _times(each, constants[0]) for key, each in moving[0].items()}
    result: Terms = {} if expr.op == "neg" else dict(known[0])
    for key, each in known[-1].items():
        signed = each if expr.op == "add" else _negative(each)
        result[key] = _plus(result[key], signed) if key in result else signed
    return result


def _negative(expr: Expr) -> Expr:
    return number(-int(number_of(expr))) if is_number(expr) else call("neg", expr)


def _plus(left: Expr, right: Expr) -> Expr:
    if is_number(left, 0):
        return right
    return left if is_number(right, 0) else call("add", left, right)


def _times(left: Expr, right: Expr) -> Expr:
    if is_number(left, 1):
        return right
    return left if is_number(right, 1) else call("mul", left, right)
