"""One array read at a row and at a key: its gradient is the sum of what rows and what keys give.
Schedules interpreted, against the eager form's float64 autograd; passes without a rule are refused,
and wrong schedules are found out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from derivative_cases import error, gradients, spec_of, truth
from test_backward import mutants

from attnc.cases import Case, Shape, draw_case
from attnc.errors import UnsupportedError
from attnc.front import load_source, read_spec
from attnc.passes import differentiate, held_sums, inner_sums, pair_sums, pipeline
from attnc.passes.apart import rows_apart
from attnc.passes.backward import lower_derivative
from attnc.spec import Spec

WITHOUT_TWINS = tuple(one for one in pipeline.GRAPH_PASSES if one is not rows_apart)
SQUARE = Shape(7, 7, 4, 3, 2, 2, 2)

NUMBERS = """
attention numbers(q, k, v):
    input x: real[b, h, j], total: real[b, hk, j]
    mask: j <= i
    score: dot(q[i], k[j]) * scale - (x[i] - x[j]) ** 2 + total[i] * total[j]
    normalize: softmax(j: score)
"""
VECTORS = """
attention vectors(k, v) for i over j:
    axis i < len(j)
    input k: real[b, hk, j, d], v: real[b, hk, j, e], near: real[h]
    mask: j <= i
    score: dot(k[i], k[j]) * scale - near * sum(e: (v[i] - v[j]) ** 2)
    normalize: softmax(j: score)
    read: v[i] + sum(j: weight * v[j])
"""
MIXED = """
attention mixed(x) for i over j:
    input x: real[b, j, d], P, Q: real[d, c in d]
    axis i < len(j)
    score: dot(x[j], Q @ x[i])
    normalize: softmax(j: score)
    read: x[i] + sum(j: weight * (P @ x[j]))
"""
SAMPLED = """
attention sampled(q, k, v) for i over j | r:
    input at: int[b, h, r], doc: int[b, j]
    mask[j]: doc[j] == doc[i]
    mask[r]: doc[at[r]] != doc[i]
    score[j]: dot(q[i], k[j]) * scale
    score[r]: dot(q[i], k[at[r]]) * scale
    normalize: softmax(j | r: score)
    read: sum(j: weight * v[j]) + sum(r: weight * v[at[r]])
"""
ONE_AXIS = """
attention one_axis(x, v) for i in j over j:
    input x: real[b, j, d], v: real[b, h, j, e], gate: real[h, j]
    mask: j <= i
    score: dot(x[i], x[j]) * gate[i] * scale
    normalize: softmax(j: score)
    read: gate[i] * sum(j: weight * v[j]) + v[i]
"""
TEXTS = {"numbers": NUMBERS, "vectors": VECTORS, "mixed": MIXED, "sampled": SAMPLED}
TEXTS["one_axis"] = ONE_AXIS


def read(text: str) -> Spec:
    return read_spec(load_source(text))


def drawn(spec: Spec) -> Case:
    return draw_case(spec, SQUARE, 1)


def errors(spec: Spec, derivative: Any, case: Case, outputs: str = "float16") -> dict[str, float]:
    """`outputs`: the dtype of what is read of the forward's; what is near a mean may be rounded."""
    cotangents, wanted = truth(spec, case)
    found = gradients(spec, derivative, case, cotangents, splits=2, outputs=outputs)
    assert found.keys() == wanted.keys()
    return {name: error(grad, wanted[name]) for name, grad in found.items()}


@pytest.mark.parametrize("sweep", ["two", "one"])
@pytest.mark.parametrize("name", TEXTS)
def test_gradients(name: str, sweep: Any) -> None:
    """Numbers and vectors, of query heads and of key heads; behind a matrix; at places that data
    say; rows on the axis of their keys."""
    spec = read(TEXTS[name])
    found = errors(spec, lower_derivative(spec, (), sweep), drawn(spec))
    assert max(found.values()) < 1e-9, found


@pytest.mark.parametrize("name", ["softmax/aaren", "axis/channel_attention", "axis/channel_gram"])
def test_gallery(name: str) -> None:
    spec = spec_of(name)
    found = errors(spec, lower_derivative(spec, (), "two"), drawn(spec), "float64")
    assert max(found.values()) < 1e-9, found


STEEP = """
attention steep(q, k, v) for i over j:
    gap[i, j] = sum(e: (v[i] - v[j]) ** 2)
    score: dot(q[i], k[j]) * scale
    normalize: (exp(score) * gap + 1e-8) ** (-0.25)
"""


def test_equal_vectors_leave_no_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slope of a pair's weight is 1e10 where its vectors are equal, and their difference 0."""
    spec = read(STEEP)
    case = drawn(spec)
    assert errors(spec, lower_derivative(spec), case)["v"] < 1e-12
    monkeypatch.setattr(inner_sums, "_where_unequal", lambda roles, body, walked: body)
    assert errors(spec, lower_derivative(spec), case)["v"] > 1e-11


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("numbers", (differentiate, "_other", lambda index, dummy, tokens: False)),
        ("vectors", (held_sums, "_of_query_heads", lambda sums, whole: whole)),
        ("mixed", (pair_sums, "says_place", lambda condition, index: False)),
        ("sampled", (pair_sums, "says_place", lambda condition, index: False)),
        ("one_axis", (pipeline, "GRAPH_PASSES", WITHOUT_TWINS)),
    ],
)
def test_each_rule_is_needed(
    name: str, without: tuple[Any, str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*without)
    with pytest.raises(UnsupportedError):
        lower_derivative(read(TEXTS[name]))


@pytest.mark.parametrize("name", ["numbers", "one_axis"])
def test_mutants_are_found_out(name: str) -> None:
    spec = read(TEXTS[name])
    derivative = lower_derivative(spec)
    case = draw_case(spec, Shape(5, 5, 2, 2, 2, 2, 2), 1)
    survivors = []
    for what, schedule in mutants(derivative.backward):
        try:
            found = errors(spec, replace(derivative, backward=schedule), case)
        except AssertionError:
            continue  # a region that does not fit its mask
        if max(found.values()) < 1e-9:
            survivors.append(what)
    assert not survivors
