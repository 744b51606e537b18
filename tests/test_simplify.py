"""simplify: what it rewrites, what it must leave, and that values stay the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnc.expressions import tree
from attnc.expressions.evaluate import Environment, evaluate
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, call, number
from attnc.passes.simplify import make, simplify_expr

X = tree.param("x", "real")
Y = tree.param("y", "real")
N = tree.param("n", "int")
C = tree.param("c", "bool")


def c(op: str, *args: Expr | float | int | bool) -> Expr:
    return call(op, *(a if isinstance(a, Expr) else number(a) for a in args))


@pytest.mark.parametrize(
    ("written", "simple"),
    [
        (c("add", X, 0.0), X),
        (c("mul", 1.0, X), X),
        (c("sub", 0.0, X), c("neg", X)),
        (c("neg", c("neg", X)), X),
        (c("add", X, c("neg", Y)), c("sub", X, Y)),
        (c("mul", c("neg", X), c("neg", Y)), c("mul", X, Y)),
        (c("and", C, True), C),
        (c("or", C, True), number(True)),
        (c("where", True, X, Y), X),
        (c("where", C, X, X), X),
        (c("where", c("not", C), X, Y), c("where", C, Y, X)),
        (c("not", c("lt", N, 3)), c("ge", N, 3)),
        (c("log", c("add", 1.0, c("exp", X))), c("softplus", X)),
        (c("div", 1.0, c("add", 1.0, c("exp", c("neg", X)))), c("sigmoid", X)),
        (c("div", c("exp", X), c("add", c("exp", X), 1.0)), c("sigmoid", X)),
        (c("log", c("exp", X)), X),
        (c("floordiv", -7, 2), number(-4)),
        (c("mod", -7, 2), number(1)),
        (c("to_real", number(3)), number(3.0)),
        (c("max", X, -math.inf), X),
        (c("mul", 0, N), number(0)),
    ],
)
def test_rewrites(written: Expr, simple: Expr) -> None:
    assert simplify_expr(written) == simple


@pytest.mark.parametrize(
    "kept",
    [
        c("mul", 0.0, X),  # x may be NaN
        c("sub", X, X),
        c("div", X, X),
        c("not", c("lt", X, Y)),  # not x >= y where one is NaN
        c("div", 1.0, 0.0),
        c("exp", c("log", X)),
        c("floordiv", N, 0),
        c("eq", X, X),
    ],
)
def test_what_is_not_always_right_stays(kept: Expr) -> None:
    assert simplify_expr(kept) == kept


def test_lengths_that_are_declared() -> None:
    axis = Axis("rel", "range", low=number(-4), length=number(9))
    assert simplify_expr(tree.length(axis)) == number(9)
    assert simplify_expr(tree.start(axis)) == number(-4)
    shifted = Axis("i", shifted="offset")
    assert simplify_expr(tree.start(shifted)) == tree.start(shifted)
    assert simplify_expr(tree.start(Axis("d"))) == number(0)


def test_folds_over_nothing() -> None:
    j = Index("j", Axis("j"), 1)
    body = call("to_real", tree.position(j))
    assert simplify_expr(tree.fold("sum", (j,), body, number(False))) == number(0.0)
    assert simplify_expr(tree.fold("max", (j,), body, number(False))) == number(-math.inf)


def test_integers_meet_reals() -> None:
    assert make("mul", N, X).args[0].op == "to_real"
    assert make("add", number(2), number(0.5)) == number(2.5)


REALS = st.one_of(
    st.sampled_from([X, Y, *map(number, (0.0, 1.0, -1.0, 2.5, -0.5))]),
)
BOOLS = st.sampled_from([C, number(True), number(False)])


def _extend(children: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    two = st.sampled_from(["add", "sub", "mul", "div", "max", "min"])
    one = st.sampled_from(["neg", "exp", "abs", "log", "tanh", "softplus"])
    logic = st.builds(
        lambda op, a, b: call(op, a, b), st.sampled_from(["lt", "ge"]), children, children
    )
    tests = st.one_of(BOOLS, logic, st.builds(lambda a: call("not", a), logic))
    return st.one_of(
        st.builds(lambda op, a, b: call(op, a, b), two, children, children),
        st.builds(lambda op, a: call(op, a), one, children),
        st.builds(lambda t, a, b: call("where", t, a, b), tests, children, children),
    )


@given(st.recursive(REALS, _extend, max_leaves=12))
@settings(max_examples=150, deadline=None)
def test_values_are_kept(expr: Expr) -> None:
    """At random points, NaN and infinities among them (sigmoid is stable where its text is not)."""
    points = np.array([-2.0, -0.5, 0.0, 1.0, 3.0, np.inf, -np.inf, np.nan])
    x, y = np.meshgrid(points, points)
    for truth in (True, False):
        env = Environment(params={"x": x, "y": y, "c": truth})
        before, after = evaluate(expr, env), evaluate(simplify_expr(expr), env)
        before, after = np.broadcast_arrays(before, after)
        same = np.isclose(before, after, rtol=1e-9, atol=1e-12, equal_nan=True)
        assert np.all(same | np.isnan(before)), (expr, before[~same], after[~same])
