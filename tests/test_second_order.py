"""The forms of second order: each gives what autograd of the eager form does, some operator needs
each, and a form without a part of it is found out. Interpreted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from derivative_cases import error, run, spec_of
from test_closure import LOWER, SHAPE, Truth

from attnc.cases import draw_case
from attnc.errors import UnsupportedError
from attnc.front import load_source, read_spec
from attnc.passes import backward, second_order
from attnc.passes.differentiate import Pullback
from attnc.spec import Spec

# A table of heads, a row value within a weight, and what is held fast beside what is not.
WRITTEN = """
attention held(q, k, v):
    input slope: real[h], gate: real[b, hk, j]
    mask: j <= i
    score: dot(q[i], k[j]) * scale - slope * stop(slope) * (i - j)
    normalize: softmax(j: score)
    read: sum(j: weight * v[j] * (1 + gate[j] - stop(tanh(gate[j]))))
"""
# A sum for each pair of a width's terms, one of which is a key's alone; a product of two results.
LAYER = """
attention layer(q, k, v):
    input hidden: real[h, d]
    score: dot(q[i], k[j]) * scale + sum(d: hidden * tanh(q[i] + k[j])) / 4
    normalize: softmax(j: score)
"""
GATED = """
attention gated(q, k, v):
    input u: real[b, hk, j, e]
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
    read: sum(j: weight * v[j]) * tanh(sum(j: weight * u[j]))
"""
FORMS = {"second": "GRADIENTS_AGAIN", "over": "TANGENTS_OF_GRADIENTS"}
NEEDED = (
    ("positional/positional_only", "second"),
    ("linear/icl_linear", "over"),
)


def worst(spec: Spec, kind: str) -> float:
    """The greatest error of what a second order gives."""
    schedule = LOWER[kind](spec)
    case = draw_case(spec, SHAPE, 1)
    given, wanted = Truth(spec, case).of(kind)
    found = run(spec, schedule, {**case.tensors, **given}, case)
    made = {argument.name.rstrip("_"): argument.name for argument in schedule.signature.outputs}
    none = np.zeros(())
    return max(error(found[made[n]] if n in made else none, one) for n, one in wanted.items())


def only(kind: str, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One form alone."""
    monkeypatch.setattr(backward, FORMS[kind], (getattr(second_order, FORMS[kind])[place],))


@pytest.mark.parametrize(
    ("kind", "place"),
    [(kind, n) for kind, name in FORMS.items() for n in range(len(getattr(second_order, name)))],
)
def test_every_form_gives_the_same(kind: str, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    only(kind, place, monkeypatch)
    assert worst(read_spec(load_source(WRITTEN)), kind) < 1e-9


@pytest.mark.parametrize("text", [LAYER, GATED], ids=["layer", "gated"])
def test_what_is_beside_a_sum_of_pairs(text: str) -> None:
    assert worst(read_spec(load_source(text)), "second") < 1e-9


@pytest.mark.parametrize(("name", "kind"), NEEDED)
def test_further_forms_are_needed(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(name)
    assert worst(spec, kind) < 1e-9
    only(kind, 0, monkeypatch)
    with pytest.raises(UnsupportedError):
        LOWER[kind](spec)


def test_a_missing_part_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tangents of gradients without what moves the cotangents."""
    only("over", 1, monkeypatch)
    own = second_order._begin

    def deaf(pullback: Pullback, output: Any, cotangent: Any) -> None:
        if pullback.graph.name == "held_grad":
            own(pullback, output, cotangent)

    monkeypatch.setattr(second_order, "_begin", deaf)
    assert worst(read_spec(load_source(WRITTEN)), "over") > 1e-6
