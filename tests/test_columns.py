"""Values of keys that fold over rows: softmax over queries, products of both, slots, Sinkhorn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from schedule_interpreter import Interpreter

from attnc.errors import UnsupportedError
from attnc.expressions.tree import number
from attnc.front import load_source, read_spec
from attnc.passes import lower
from attnc.passes.backward import Sweep, lower_derivative
from attnc.schedule import RepeatKernels, Schedule
from attnc.spec import Spec

TEXT = """
attention one(q, k, v):
    mask: j <= i
    score: dot(q[i], k[j]) * scale
    {}
"""
LINES = {
    "columns": "normalize: softmax(i: score)",
    "both": "normalize: softmax(i: score) * softmax(j: score)",
    "slots": "a[i, j] = softmax(i: score)\n    normalize: by_sum(j: a)",
    "turns": "normalize: sinkhorn(i, j: score, 2)",
}


def spec_of(name: str) -> Spec:
    return read_spec(load_source(TEXT.format(LINES[name])))


def weights(name: str, q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Dense weights from the equations."""
    score = np.einsum("bhid,bhjd->bhij", q, k) / np.sqrt(q.shape[-1])
    seen = np.tril(np.ones(score.shape[-2:], bool))
    power = np.where(seen, np.exp(score), 0.0)

    def rows(x: np.ndarray) -> np.ndarray:
        return x / x.sum(-1, keepdims=True)

    def columns(x: np.ndarray) -> np.ndarray:
        return x / x.sum(-2, keepdims=True)

    if name == "turns":
        plan = rows(power)
        for _ in range(2):
            plan = rows(columns(plan))
        return plan
    found = {"columns": columns(power), "both": columns(power) * rows(power)}
    return found[name] if name in found else rows(columns(power))


def difference(name: str, schedule: Schedule) -> float:
    rng = np.random.default_rng(2)
    arrays = {one: rng.standard_normal((2, 1, 9, 4)) for one in "qkv"}
    out = np.asarray(Interpreter(schedule, dict(arrays)).run()["out"])
    exact = weights(name, arrays["q"], arrays["k"]) @ arrays["v"]
    return float(np.abs(out - exact).max())


@pytest.mark.parametrize("name", LINES)
def test_values_of_keys_are_finished_first(name: str) -> None:
    schedule = lower(spec_of(name))
    assert difference(name, schedule) < 1e-12
    kept = [{axis.name for axis in space.array.axes} for space in schedule.workspaces]
    assert not any({"i", "j"} <= axes for axes in kept), "a number for each pair"


def test_a_turn_less_is_seen() -> None:
    schedule = lower(spec_of("turns"))
    short = tuple(
        replace(one, count=number(1)) if isinstance(one, RepeatKernels) else one
        for one in schedule.kernels
    )
    assert difference("turns", replace(schedule, kernels=short)) > 1e-4


def test_loops_of_keys_walk_what_the_mask_leaves() -> None:
    """The mask of a column is a region of its own: rows from the key on."""
    schedule = lower(spec_of("columns"))
    first = schedule.kernels[0]
    assert first.held.name == "j" and first.loops[0].walked.name == "i"  # type: ignore[union-attr]


def dense(name: str, score: torch.Tensor) -> torch.Tensor:
    """Dense weights of scores, -inf where a key is not seen."""
    if name == "slots":  # a row of the columns' weights over its sum, where both may underflow
        return score.log_softmax(-2).softmax(-1)
    columns = score.softmax(-2)
    if name == "turns":
        plan = score.softmax(-1)
        for _ in range(2):
            plan = plan / plan.sum(-2, keepdim=True)
            plan = plan / plan.sum(-1, keepdim=True)
        return plan
    return columns * score.softmax(-1) if name == "both" else columns


Arrays = dict[str, np.ndarray]


def drawn(names: Iterable[str]) -> Arrays:
    rng = np.random.default_rng(4)
    return {one: rng.standard_normal((2, 1, 9, 4)) for one in names}


def gradients(name: str, sweep: Sweep, arrays: Arrays) -> dict[str, Any]:
    """What the schedules of a forward and its backward store."""
    derivative = lower_derivative(spec_of(name), (), sweep)
    kept = Interpreter(derivative.forward, {one: arrays[one] for one in "qkv"}).run()
    given = {one: kept[one] for one in derivative.reads}
    given |= {array.name: kept[array.name] for array in derivative.saved}
    return Interpreter(derivative.backward, arrays | given).run()


def by_autograd(name: str, arrays: Arrays) -> dict[str, Any]:
    q, k, v = leaves = [torch.tensor(arrays[one], requires_grad=True) for one in "qkv"]
    score = (q @ k.mT / 2).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
    found = torch.autograd.grad(dense(name, score) @ v, leaves, torch.tensor(arrays["out_grad"]))
    return {one: grad.numpy() for one, grad in zip("qkv", found, strict=True)}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("sweep", ["one", "two"])
def test_gradients_of_normalizers_over_the_rows(name: str, sweep: Sweep) -> None:
    """Against autograd of the dense formula: values of keys that depend on cotangents."""
    arrays = drawn([*"qkv", "out_grad"])
    found = gradients(name, sweep, arrays)
    for one, grad in by_autograd(name, arrays).items():
        np.testing.assert_allclose(found[f"{one}_grad"], grad, atol=1e-12)


@pytest.mark.parametrize("name", LINES)
def test_weights_and_what_keys_receive(name: str) -> None:
    arrays = drawn("qkv")
    schedule = lower(spec_of(name), ("weight", "colsum"))
    found = Interpreter(schedule, dict(arrays)).run()
    exact = weights(name, arrays["q"], arrays["k"])
    np.testing.assert_allclose(found["weight"], exact, atol=1e-12)
    np.testing.assert_allclose(found["colsum"], exact.sum(-2), atol=1e-12)


@pytest.mark.parametrize("name", ["columns", "both", "slots"])
def test_gradients_of_scores_whose_powers_overflow(name: str) -> None:
    """2^score is beyond float64: a power is only formed relative to a row's or a key's."""
    arrays = {one: 60 * array for one, array in drawn("qkv").items()} | drawn(["out_grad"])
    found, wanted = gradients(name, "two", arrays), by_autograd(name, arrays)
    for one, grad in wanted.items():
        assert np.abs(found[f"{one}_grad"] - grad).max() < 1e-11 * (1 + np.abs(grad).max()), one


def test_gradients_of_many_turns_are_refused_by_name() -> None:
    text = TEXT.format("normalize: sinkhorn(i, j: score, 9)")
    with pytest.raises(UnsupportedError, match="column_norm: a derivative of more than"):
        lower_derivative(read_spec(load_source(text)))
