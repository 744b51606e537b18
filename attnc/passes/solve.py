"""Unknowns of a row: an equation between sums over keys, solved in rounds over the keys.

    solve x in low .. high: left == right

Both ends are finished by a pass over the keys, the gap left - right at both by another. Each round
is one more pass: it evaluates the gap at two points inside the bracket, and its slope at the first
of them, and moves the ends to them by the gap's sign. The first point of the next round is
Newton's, the second where the chord of the bracket meets zero. Where the gap is convex the root
lies between the two. Where a round has not cut the bracket to a quarter, the second is its middle:
so it is halved at least, whatever the gap's shape, and the number of rounds has a bound.

A row is done where the gap at a point is no larger than its rounding, or where no number lies
between the ends; then both ends are the root, and the row is idle.

    low == high          the root (a row without keys: -inf, as its folds over nothing say)
    one sign at both     NaN, unless the end is a root but for rounding
    NaN in the gap       NaN

No dtype stands here: `x` is lost in `s` where s + x == s in the arithmetic of the kernel.

does      replaces solves of rows by reads of their roots, and makes the kernels that find them
needs     folds over keys that Reductions knows
does not  solve for a number of each key, or of a head; know what the equation is for
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial, reduce

from attnc.expressions.index import Axis, Index
from attnc.expressions.naming import fresh_name
from attnc.expressions.tree import Array, Expr, number, value
from attnc.passes.columns import Emit, part_of
from attnc.passes.derivative_rules import put, slope_by
from attnc.passes.factors import ZERO
from attnc.passes.finish import Lowering, Target
from attnc.passes.maps import map_of
from attnc.passes.simplify import make
from attnc.passes.unknowns import Solve, whole
from attnc.schedule import Kernel, RepeatKernels, Workspace
from attnc.schedule.statements import Let
from attnc.schedule.streams import StreamKernel

_add, _sub, _mul, _div = (partial(make, op) for op in ("add", "sub", "mul", "div"))
_lt, _gt, _max, _abs = (partial(make, op) for op in ("lt", "gt", "max", "abs"))
_either, _where = partial(make, "or"), partial(make, "where")

ROUNDS = 64  # halvings of a bracket in float64, and a few more
NOISE = 1 / 16  # a gap this many times too small to be seen in its sides is rounding
BLUR = 1 / 1024  # the same where both ends have one sign


def emit_solve(lowering: Lowering, one: Solve, name: str, emit: Emit) -> None:
    """The kernels that find the root, and what they pass on. `emit` makes the kernels of targets,
    those of row values that they need first."""
    lowering.workspaces.extend(Workspace(array, "accumulate") for array in one.arrays)
    lowering.preparations.finished |= {array.name for array in one.arrays}
    ends = zip((one.low, one.high), one.node.args[:2], strict=True)
    part = _fresh(lowering)
    bracket = tuple(Target(array, None, part.reductions.finish(expr)) for array, expr in ends)
    if part.reductions.entries:
        emit(part, f"{name}_bracket", bracket)
    else:
        lowering.kernels.extend(_given(lowering, target) for target in bracket)
    for word, points in (("ends", (one.low, one.high)), ("round", (one.first, one.second))):
        part = _fresh(lowering)
        gaps = _Gaps(part, one, points)
        targets = _opened(one, gaps) if word == "ends" else _cut(one, gaps)
        before = len(lowering.kernels)
        emit(part, f"{name}_{word}", targets)
        if word == "round":
            kernels = tuple(_idling(kernel, one) for kernel in lowering.kernels[before:])
            del lowering.kernels[before:]
            turn = Index("turn", Axis("turn", "range", length=number(ROUNDS)))
            lowering.kernels.append(RepeatKernels(turn, number(ROUNDS), kernels))
    lowering.notes.append(
        f"{one.node.attr} is solved for each row: a pass over the keys for the bracket, one for "
        f"its ends, then at most {ROUNDS} rounds of Newton and chord, each a pass that computes "
        "scores again and leaves out tiles of rows that are done."
    )


def _given(lowering: Lowering, end: Target) -> Kernel:
    """An end that no key decides."""
    rows = (*lowering.frame.grid, lowering.frame.held)
    taken = lowering.reductions.names.taken
    return map_of(f"given_{end.array.name}", rows, None, end.array, end.expr, taken)


def _fresh(lowering: Lowering) -> Lowering:
    """A lowering of one pass: it shares what the passes share, not their reductions."""
    return part_of(lowering, lowering.reductions.apart(lowering.frame))


def _idling(kernel: Kernel, one: Solve) -> Kernel:
    """The kernel of a round, which leaves out tiles of rows that are done."""
    if not isinstance(kernel, StreamKernel):
        return kernel
    name = fresh_name("done", {let.name for let in (*kernel.held_values, *kernel.finish)})
    done = Let(name, _done(one))
    idle = value(name, "bool", done.expr.free)
    return replace(kernel, held_values=(*kernel.held_values, done), idle=idle)


class _Gaps:
    """The gap at two points, how large its sides are there, and its slope at the first."""

    def __init__(self, part: Lowering, one: Solve, points: tuple[Array, Array]) -> None:
        left, right = one.node.args[2:]
        unknown = Expr("unknown", (), one.node.attr, "real")
        frame = part.frame
        axes = (index.axis for index in (*frame.grid, frame.held, *frame.walked))
        slope = slope_by(make("sub", left, right), unknown, frozenset(axes))

        def at(expr: Expr, place: Array) -> Expr:
            return part.reductions.finish(put(expr, unknown, whole(place)))

        sides = [tuple(at(side, place) for side in (left, right)) for place in points]
        self.points = tuple(map(whole, points))
        self.gaps = tuple(_sub(*pair) for pair in sides)
        self.sizes = tuple(_max(*map(_abs, pair)) for pair in sides)
        self.slope = at(slope, points[0])

    @property
    def newton(self) -> Expr:
        """Where the tangent at the first point meets zero; inf or NaN where it is flat."""
        if self.slope == ZERO:
            return _sub(self.points[0], number(float("inf")))
        return _sub(self.points[0], _div(self.gaps[0], self.slope))

    def unseen(self, place: int, share: float) -> Expr:
        """Whether the gap at a point, times a share, is lost in its sides; true of NaN."""
        size = self.sizes[place]
        seen = make("gt", _add(size, _mul(_abs(self.gaps[place]), number(share))), size)
        return make("not", seen)


def _opened(one: Solve, at: _Gaps) -> tuple[Target, ...]:
    """After the pass at both ends."""
    low, high = at.points
    first, second = at.gaps
    newton = at.newton
    step = _abs(_sub(newton, low))
    near_low, near_high = at.unseen(0, NOISE), at.unseen(1, NOISE)
    sign = _where(_gt(first, ZERO), _gt(second, ZERO), _both(_lt(first, ZERO), _lt(second, ZERO)))
    moved = _where(make("le", step, _sub(high, low)), newton, low)
    still = make("eq", _add(low, _mul(step, number(NOISE))), low)
    blurred_low = _either(at.unseen(0, BLUR), still)
    nothing = number(float("nan"))
    same = _where(blurred_low, moved, _where(at.unseen(1, BLUR), high, nothing))
    root = _where(near_low, moved, _where(near_high, high, same))
    over = _either(_either(near_low, near_high), sign)
    root = _where(_either(_nan(first), _nan(second)), _add(first, second), root)
    inside = _both(_lt(low, newton), _lt(newton, high))
    middle = _middle(low, high, 0.5)
    return _targets(
        one,
        over,
        root,
        (low, high, first, second),
        (_where(inside, newton, _middle(low, high, 0.25)), middle),
    )


def _cut(one: Solve, at: _Gaps) -> tuple[Target, ...]:
    """After a round."""
    low, high, low_gap, high_gap = (whole(a) for a in one.arrays[:4])
    (first, second), (gap, other) = at.points, at.gaps

    def before(found: Expr) -> Expr:  # the root: the gap has the sign that it has at the low end
        return _where(_gt(low_gap, ZERO), _gt(found, ZERO), _lt(found, ZERO))

    left, right = before(gap), before(other)
    new_low, new_low_gap = _where(left, first, low), _where(left, gap, low_gap)
    new_high, new_high_gap = _where(left, high, first), _where(left, high_gap, gap)
    up = _both(right, _gt(second, new_low))
    down = _both(make("not", right), _lt(second, new_high))
    new_low, new_low_gap = _where(up, second, new_low), _where(up, other, new_low_gap)
    new_high, new_high_gap = _where(down, second, new_high), _where(down, other, new_high_gap)
    newton, width = at.newton, _sub(new_high, new_low)
    near, beside = at.unseen(0, NOISE), at.unseen(1, NOISE)
    middle = _middle(new_low, new_high, 0.5)
    narrow = make("not", _both(_lt(new_low, middle), _lt(middle, new_high)))
    nearer = make("le", _abs(new_low_gap), _abs(new_high_gap))
    best = _where(nearer, new_low, new_high)
    within = _both(make("le", low, newton), make("le", newton, high))
    exact = _where(_nan(gap), gap, _where(within, newton, first))
    root = _where(near, exact, _where(beside, _where(_nan(other), other, second), best))
    over = _either(_either(near, beside), narrow)
    chord = _div(_mul(width, new_low_gap), _sub(new_low_gap, new_high_gap))
    secant = _add(new_low, chord)
    inside = _both(_lt(new_low, newton), _lt(newton, new_high))
    met = _both(_lt(new_low, secant), _lt(secant, new_high))
    fast = make("le", _mul(width, number(4.0)), _sub(high, low))
    points = (
        _where(inside, newton, _middle(new_low, new_high, 0.25)),
        _where(_both(met, fast), secant, middle),
    )
    return _targets(one, over, root, (new_low, new_high, new_low_gap, new_high_gap), points)


def _targets(
    one: Solve, over: Expr, root: Expr, bracket: tuple[Expr, ...], points: tuple[Expr, Expr]
) -> tuple[Target, ...]:
    """What a pass stores: where it is over, the root as both ends; a row that was done keeps what
    it had."""
    done = _done(one)
    low, high = (_where(done, whole(array), _where(over, root, new))
                 for array, new in zip((one.low, one.high), bracket, strict=False))  # fmt: skip
    exprs = (low, high, *bracket[2:], *points)
    return tuple(Target(array, None, expr) for array, expr in zip(one.arrays, exprs, strict=True))


def _done(one: Solve) -> Expr:
    return make("not", _lt(whole(one.low), whole(one.high)))


def _middle(low: Expr, high: Expr, share: float) -> Expr:
    return _add(low, _mul(_sub(high, low), number(share)))


def _nan(x: Expr) -> Expr:
    return make("not", make("le", _abs(x), number(float("inf"))))


def _both(*tests: Expr) -> Expr:
    return reduce(lambda a, b: make("and", a, b), tests)
