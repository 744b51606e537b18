"""The evaluator of scalar trees, and their text."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from attnc.errors import InternalError
from attnc.expressions.evaluate import Environment, OutsideError, evaluate
from attnc.expressions.index import Axis, Index
from attnc.expressions.text import expression_text
from attnc.expressions.tree import (
    FALSE,
    TRUE,
    Array,
    Expr,
    call,
    fold,
    length,
    number,
    param,
    position,
    read,
    start,
    value,
)

I = Index("i", Axis("i"), 0)  # noqa: E741
J = Index("j", Axis("j"), 1)
L = Index("l", J.axis, 2)
B = Index("b", Axis("b"), 3)
i, j, l = position(I), position(J), position(L)  # noqa: E741
DOC = Array("doc", (B, J), "int", "input")
w = param("w", "int")

PYTHON: dict[str, Callable[[int, int], Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "floordiv": operator.floordiv,
    "mod": operator.mod, "min": min, "max": max, "div": operator.truediv,
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le,
    "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip


@given(some.sampled_from(sorted(PYTHON)), some.integers(-99, 99), some.integers(-99, 99))
def test_arithmetic_is_that_of_python(op: str, left: int, right: int) -> None:
    if right == 0 and op in ("floordiv", "mod", "div"):
        return
    found = evaluate(call(op, number(left), number(right)))
    assert found == PYTHON[op](left, right)
    kind = {"div": np.float64}.get(op, np.int64 if op in tuple(PYTHON)[:7] else np.bool_)
    assert found.dtype == kind


def test_indices_broadcast() -> None:
    rows, keys = np.arange(5)[:, None], np.arange(7)[None, :]
    causal = evaluate(call("le", j, i), Environment({I: rows, J: keys}))
    assert causal.shape == (5, 7) and (causal == (keys <= rows)).all()
    assert evaluate(w, Environment({I: rows}, params={"w": 3})).shape == ()


def test_reads_start_where_their_axis_starts() -> None:
    data = np.arange(12).reshape(2, 6) ** 2
    there = read(DOC, (position(B), j))
    found = evaluate(
        there, Environment({B: 1, J: np.array([10, 12])}, {}, {}, {J.axis: 9}, {"doc": data})
    )
    assert (found == data[1, [1, 3]]).all()


def test_reads_outside_count_only_where_they_are_asked_for() -> None:
    before = read(DOC, (position(B), call("sub", j, number(1))))
    at = Environment({B: 0, J: np.arange(3)}, arrays={"doc": np.array([[5, 6, 7]])})
    with pytest.raises(OutsideError):
        evaluate(before, at)
    inside = call("gt", j, number(0))
    assert evaluate(call("where", inside, before, number(-1)), at).tolist() == [-1, 5, 6]
    assert evaluate(Expr("default", (before, number(9)), None, "int"), at).tolist() == [9, 5, 6]
    guarded = call("and", inside, call("eq", before, number(5)))
    assert evaluate(guarded, at).tolist() == [False, True, False]
    with pytest.raises(OutsideError):
        evaluate(call("and", call("eq", before, number(5)), inside), at)


def test_folds_keep_to_their_condition() -> None:
    lower = call("le", l, j)
    at = Environment({J: np.arange(4)}, lengths={J.axis: 4})
    assert evaluate(fold("sum", (L,), l, lower), at).tolist() == [0, 1, 3, 6]
    assert evaluate(fold("max", (L,), call("to_real", l), FALSE), at) == -math.inf
    assert evaluate(fold("prod", (L,), call("add", l, number(1))), at) == 24
    pairs = fold("sum", (J, L), number(1), lower)
    assert evaluate(pairs, at) == 10


def test_axes_measure_themselves() -> None:
    parts = (Axis("y", length=param("height", "int")), Axis("x", length=number(5)))
    grid = Axis("n", "product", parts=parts)
    span = Axis("rel", "range", low=call("neg", w), length=number(7))
    at = Environment(params={"height": 3, "w": 3})
    assert evaluate(length(grid), at) == 15
    assert evaluate(start(span), at) == -3
    with pytest.raises(InternalError):
        evaluate(length(Axis("k")), at)


def test_what_only_the_oracle_does() -> None:
    with pytest.raises(InternalError, match="oracle"):
        evaluate(Expr("random", (i,), 0, "real"), Environment({I: 0}))


def test_depth_is_no_limit() -> None:
    deep = i
    for step in range(5000):
        deep = call("add", deep, number(step % 2))
    assert evaluate(deep, Environment({I: 1})) == 2501
    assert expression_text(deep).endswith("...")
    assert len(expression_text(deep, limit=100)) < 120


away = call("sub", i, j)
either = call("or", call("le", j, i), call("lt", w, i))
doc = read(DOC, (position(B), j))
TEXTS = [
    ("0 <= i - j < w", call("and", call("le", number(0), away), call("lt", away, w))),
    ("i - (j - 1)", call("sub", i, call("sub", j, number(1)))),
    ("(i - j) * 2 // w", call("floordiv", call("mul", away, number(2)), w)),
    ("i // w % 3", call("mod", call("floordiv", i, w), number(3))),
    ("i % (w // 3)", call("mod", i, call("floordiv", w, number(3)))),
    ("not (j <= i and w < i)", call("not", call("and", call("le", j, i), call("lt", w, i)))),
    ("(j <= i or w < i) and j != w", call("and", either, call("ne", j, w))),
    ("-i ** 2", call("neg", call("pow", i, number(2)))),
    ("(-i) ** 2", call("pow", call("neg", i), number(2))),
    ("(-1) ** i", call("pow", number(-1), i)),
    ("doc[b, j]", doc),
    ("sum(l if l <= j: 1)", fold("sum", (L,), number(1), call("le", l, j))),
    ("where(true, len(j), start(i))", call("where", TRUE, length(J.axis), start(I.axis))),
    ("(doc[b, j] else 0) + 1", call("add", Expr("default", (doc, number(0))), number(1))),
    ("2 * (i + j)", call("mul", number(2), call("to_real", call("add", i, j)))),
    ("min(i, inf)", call("min", i, number(math.inf))),
    ("held_low - 3", call("sub", value("held_low", "int"), number(3))),
]


@pytest.mark.parametrize(("text", "expr"), TEXTS, ids=[text for text, _ in TEXTS])
def test_text_is_that_of_the_language(text: str, expr: Expr) -> None:
    assert expression_text(expr) == text


def test_indices_of_one_name_are_told_apart() -> None:
    other = position(Index("j", J.axis, 7))
    assert expression_text(call("lt", j, other)) == "j'1 < j'7"


def test_text_may_leave_outer_axes_out() -> None:
    assert expression_text(read(DOC, (position(B), j)), outer=False) == "doc[j]"
