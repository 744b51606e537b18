"""Recurrences in chunks: which have the form, what it means, and that the chunk never shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from attnc.backends.numpy_oracle import evaluate as oracle
from gallery_cases import defaults
from recurrences import MORE, SPECS
from schedule_interpreter import Interpreter

from attnc.cases import Shape, draw_case
from attnc.front import load_source, read_spec
from attnc.passes import lower
from attnc.schedule import Schedule
from attnc.schedule.scans import ScanKernel
from attnc.schedule.statements import Contraction, TriangularSolve
from attnc.spec import Spec

SHAPE = Shape(7, 7, 3, 4, 2, 2, 2)
CHUNKED = (
    "linear_attention", "constant_decay", "gla", "value_decay", "rwkv6", "delta_rule",
    "gated_delta", "householder", "rwkv7", "mamba2", "document_reset", "lagged",
    "key_heads", "momentum",
)  # fmt: skip
WHY = {
    "mamba": "the update of H is elementwise",
    "exchange": "A and B are handed on to each other",
    "running_max": "the update of top is not affine: `max` of a state",
    "nonlinear": "the update of S is not affine",
    "both_sides": "the update of S is not affine",
    "shift_register": "the update of past is unstructured",
    "three_axes": "other than by a product",
}


def spec_of(text: str) -> Spec:
    return read_spec(load_source(text.lstrip()))


def chunked(schedule: Schedule) -> ScanKernel | None:
    (kernel,) = schedule.kernels
    assert isinstance(kernel, ScanKernel)
    return kernel.chunked


def run(spec: Spec, case: Any, chunk: int) -> Any:
    schedule = lower(spec)
    numbers = {**defaults(spec), **case.numbers}
    width = case.tensors.get("q", next(iter(case.tensors.values()))).shape[-1]
    numbers.setdefault("scale", width**-0.5)
    return Interpreter(schedule, dict(case.tensors), numbers, chunk=chunk).run()["out"]


@pytest.mark.parametrize("name", [*CHUNKED, *MORE])
@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_chunks_are_the_oracle(name: str, chunk: int) -> None:
    spec = spec_of({**SPECS, **MORE}[name][1])
    case = draw_case(spec, SHAPE, 2)
    expected = oracle(spec, case.tensors, case.numbers)["out"]
    np.testing.assert_allclose(run(spec, case, chunk), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", WHY)
def test_why_there_are_no_chunks(name: str) -> None:
    schedule = lower(spec_of(SPECS[name][1]))
    assert chunked(schedule) is None
    assert any(WHY[name] in note for note in schedule.notes), schedule.notes


def test_a_decay_that_may_exceed_one_runs_row_by_row() -> None:
    schedule = lower(
        spec_of("""
attention free(q, k, v) for t:
    input g: real[b, h, t]
    state S: real[d, e] = 0
    update:
        S = exp(g[t]) * S + outer(k[t], v[t])
    read: q[t] @ S
""")
    )
    assert chunked(schedule) is None
    assert "that the decay of S is at most 1 is not proved" in schedule.notes[-2]


@pytest.mark.parametrize("name", ["gla", "gated_delta", "value_decay", "rwkv7"])
def test_decays_of_any_size(name: str) -> None:
    """Decays from 1 down to 0, among rows and channels: finite, and the oracle's."""
    spec = spec_of(SPECS[name][1])
    case = draw_case(spec, SHAPE, 4)
    gate = "w" if name == "rwkv7" else "g"
    logs = np.array([0.0, -1e-6, -1.0, -13.8, -800.0, -np.inf])
    grows = {"gla": -1, "gated_delta": -1}.get(name, 1)  # of softplus(g), of sigmoid(g)
    drawn = np.random.default_rng(5).choice(logs, case.tensors[gate].shape)
    case.tensors[gate] = np.where(drawn == 0.0, 40.0, drawn) * grows
    expected = oracle(spec, case.tensors, case.numbers)["out"]
    assert np.isfinite(expected).all()
    for chunk in (2, 5):
        np.testing.assert_allclose(run(spec, case, chunk), expected, rtol=1e-9, atol=1e-9)


def test_a_delta_rule_solves_one_system() -> None:
    kernel = chunked(lower(spec_of(SPECS["gated_delta"][1])))
    assert kernel is not None
    inside = kernel.loop.inside
    assert sum(isinstance(one, TriangularSolve) for one in inside) == 1
    pairs = [one for one in inside if isinstance(one, Contraction) and one.along.name == "d"]
    assert [one.before for one in pairs] == [True, True, False, False]


@pytest.mark.parametrize("name, rank", [("householder", 2), ("reflections", 3)])
def test_corrections_see_one_another(name: str, rank: int) -> None:
    """Several update lines are one transition of their rank: a solve for each unknown that is found
    and each that is eliminated, and what it leaves between two others."""
    schedule = lower(spec_of({**SPECS, **MORE}[name][1]))
    kernel = chunked(schedule)
    assert kernel is not None
    solves = [one for one in kernel.loop.inside if isinstance(one, TriangularSolve)]
    assert sum(one.left is None for one in solves) == 2 * rank - 1
    left = sum(n * n for n in range(rank))
    assert sum(one.left is not None for one in solves) == left
    assert any(f"corrected in rank {rank}" in note for note in schedule.notes)
