"""Unknowns of rows: sparsemax, entmax of any alpha, smooth thresholds, brackets without a root."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from schedule_interpreter import Interpreter

import attnc
from attnc.compiler import emit_kernels
from attnc.compiler import lower as lower_stages
from attnc.front import load_source, read_spec
from attnc.passes import lower
from attnc.schedule import Kernel, RepeatKernels, Schedule
from attnc.schedule.streams import StreamKernel

ENTMAX = """
attention powers(q, k, v):
    param alpha: real = 1.5
    input shown: bool[b, j]
    mask: j <= i and shown[j]
    score: dot(q[i], k[j]) * scale
    normalize: entmax(j: score, alpha)
"""
THRESHOLD = """
def kept(j: s, count, low, high):
    solve edge in low .. high: sum(j: sigmoid(8 * (s - edge))) == count
    return sigmoid(8 * (s - edge))
attention soft_topk(q, k, v):
    param low, high: real
    score: dot(q[i], k[j]) * scale
    normalize: kept(j: score, 3, low, high)
"""

TOP_MASS = """
attention nucleus(q, k, v):
    param p: real
    mask: j < i
    score: dot(q[i], k[j]) * scale
    normalize: top_mass(j: score, p)
"""
ENDS = r"`edge`.*the same sign at both.* -\S+ at 8 and -\S+ at 9.* b = 0, h = 0, i ="


def by_bisection(score: np.ndarray, alpha: float) -> np.ndarray:
    """The weights of one row, by halving."""
    scaled = (alpha - 1) * score
    low, high = scaled.max() - 1, scaled.max()
    for _ in range(200):
        middle = (low + high) / 2
        mass = (np.maximum(scaled - middle, 0) ** (1 / (alpha - 1))).sum()
        low, high = (middle, high) if mass > 1 else (low, middle)
    return np.maximum(scaled - low, 0) ** (1 / (alpha - 1))


def weights_of(q: np.ndarray, k: np.ndarray, shown: np.ndarray, alpha: float) -> np.ndarray:
    """[b, h, i, j]: the weights, 0 in rows that see no key."""
    scores = np.einsum("bhid,bhjd->bhij", q, k) / np.sqrt(q.shape[-1])
    weights = np.zeros_like(scores)
    for b, h, i in np.ndindex(scores.shape[:3]):
        seen = np.flatnonzero(shown[b, : i + 1])
        if len(seen):
            weights[b, h, i, seen] = by_bisection(scores[b, h, i, seen], alpha)
    return weights


@pytest.fixture(scope="module")
def powers() -> attnc.Operator:
    return attnc.compile(ENTMAX, backend="cpu")


@pytest.mark.parametrize("alpha", [1.2, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("rows, size", [(1, 1.0), (67, 1.0), (257, 30.0)])
def test_entmax_of_any_alpha(powers: attnc.Operator, alpha: float, rows: int, size: float) -> None:
    """One key, many, rows that see none; weights, and what keys receive."""
    rng = np.random.default_rng(rows)
    q, k, v = (rng.standard_normal((1, 1, rows, 8)) for _ in range(3))
    shown = rng.random((1, rows)) < 0.9
    shown[:, : rows // 8] = False
    weights = weights_of(size * q, k, shown, alpha)
    given = (torch.tensor(x) for x in (size * q, k, v))
    called = {"shown": torch.tensor(shown), "alpha": alpha, "emit": ("weight", "colsum")}
    for found, exact in zip(
        powers(*given, **called), (weights @ v, weights, weights.sum(2)), strict=True
    ):
        np.testing.assert_allclose(found.numpy(), exact, atol=1e-9 * size)


def test_rows_stay_within_sixteen_bits(powers: attnc.Operator) -> None:
    q, k, v = (torch.randn(1, 2, 40, 8, dtype=torch.bfloat16) for _ in range(3))
    shown = torch.ones(1, 40, dtype=torch.bool)
    out = powers(q, k, v, shown=shown)
    exact = weights_of(q.double().numpy(), k.double().numpy(), shown.numpy(), 1.5)
    difference = out.double() - torch.tensor(exact) @ v.double()
    assert difference.abs().max() < 0.03


@pytest.mark.parametrize("alpha", [1.5, 2.0, 2.5])
def test_gradients_by_the_implicit_function(powers: attnc.Operator, alpha: float) -> None:
    """Against central differences of the operator, away from edges of the support."""
    torch.manual_seed(5)
    x = [torch.randn(1, 1, 9, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    shown = torch.ones(1, 9, dtype=torch.bool)
    run = lambda q, k, v: powers(q, k, v, shown=shown, alpha=alpha)  # noqa: E731
    assert torch.autograd.gradcheck(run, x, eps=1e-7, atol=1e-5, rtol=1e-4)


def interpreted(schedule: Schedule, low: float, high: float) -> np.ndarray:
    rng = np.random.default_rng(3)
    arrays = {name: rng.standard_normal((1, 1, 9, 4)) for name in "qkv"}
    arrays["v"] = np.broadcast_to(np.eye(9)[None, None], (1, 1, 9, 9)).copy()
    tiles = {"held_tile": 9, "walked_tile": 9}
    runner = Interpreter(schedule, arrays, params={"low": low, "high": high}, **tiles)
    return np.asarray(runner.run()["out"])


def test_a_bracket_holds_the_root_or_the_row_is_not_a_number() -> None:
    schedule = lower(read_spec(load_source(THRESHOLD)))
    np.testing.assert_allclose(interpreted(schedule, -9.0, 9.0).sum(-1), 3.0, rtol=1e-12)
    assert np.isnan(interpreted(schedule, 8.0, 9.0)).all()
    assert np.isnan(interpreted(schedule, -9.0, -8.0)).all()


def test_a_call_without_a_root_is_told_with_its_row() -> None:
    op = attnc.compile(THRESHOLD, backend="cpu")
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 1, 9, 4) for _ in range(3))
    assert not op(q, k, v, low=-9.0, high=9.0).isnan().any()
    with pytest.raises(attnc.AttncError, match=ENDS):
        op(q, k, v, low=8.0, high=9.0)
    q[1, 0, 4] = float("nan")  # a NaN that is given is no such row
    assert op(q, k, v, low=-9.0, high=9.0).isnan().any(-1).nonzero().tolist() == [[1, 0, 4]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_one_key_has_a_root_in_sixteen_bits(dtype: torch.dtype) -> None:
    """It lies at an end of the bracket, which a rounding puts on the wrong side."""
    op = attnc.compile(ENTMAX, backend="eager")
    torch.manual_seed(0)
    q, k, v = (4 * torch.randn(5, 4, 2, 31).to(dtype) for _ in range(3))
    seen = torch.ones(5, 2, dtype=torch.bool)
    out = op(q, k, v, shown=seen, alpha=2.0)
    torch.testing.assert_close(out[:, :, 0], v[:, :, 0], rtol=0.05, atol=0)


def test_a_written_module_tells_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own dense formula; a trace asks nothing, and its row is NaN."""
    (tmp_path / "thresholds.py").write_text(
        emit_kernels(lower_stages(read_spec(load_source(THRESHOLD))))
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("thresholds")
    run = getattr(module, module.SIGNATURE.name)
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 1, 9, 4) for _ in range(3))
    assert not run(q, k, v, low=-9.0, high=9.0).isnan().any()
    with pytest.raises(attnc.AttncError, match=ENDS):
        run(q, k, v, low=8.0, high=9.0)
    assert module.reference(q, k, v, low=8.0, high=9.0).isnan().all()
    q[1, 0, 4] = float("nan")  # a NaN that is given is no such row
    assert run(q, k, v, low=-9.0, high=9.0).isnan().any(-1).nonzero().tolist() == [[1, 0, 4]]


def test_the_fewest_keys_of_a_mass() -> None:
    """Largest first, up to the one with which the mass is reached; a row without keys is 0."""
    op = attnc.compile(TOP_MASS, backend="cpu")
    rng = np.random.default_rng(4)
    q, k, v = (rng.standard_normal((1, 2, 21, 5)) for _ in range(3))
    scores = np.einsum("bhid,bhjd->bhij", q, k) / np.sqrt(5)
    weights = np.zeros_like(scores)
    for b, h, i in np.ndindex(scores.shape[:3]):
        shares = np.exp(scores[b, h, i, :i]) / np.exp(scores[b, h, i, :i]).sum()
        order = np.argsort(-shares)
        kept = order[: np.searchsorted(np.cumsum(shares[order]), 0.7) + 1]
        weights[b, h, i, kept] = shares[kept] / shares[kept].sum()
    for out in (op(q, k, v, p=0.7), op.reference(q, k, v, p=0.7)):
        np.testing.assert_allclose(out, weights @ v, atol=1e-12)


def rounds_of(schedule: Schedule) -> RepeatKernels:
    (found,) = (kernel for kernel in schedule.kernels if isinstance(kernel, RepeatKernels))
    return found


def changed(schedule: Schedule, old: Kernel, new: Kernel) -> Schedule:
    kernels = (new if kernel is old else kernel for kernel in schedule.kernels)
    return replace(schedule, kernels=tuple(kernels))


def test_mutants_of_the_rounds_die() -> None:
    """Without rounds, with a few, or with a bracket that is not stored the sum is off."""
    schedule = lower(read_spec(load_source(THRESHOLD)))
    rounds = rounds_of(schedule)
    (kernel,) = rounds.kernels
    assert isinstance(kernel, StreamKernel)
    stuck = replace(kernel, stores=kernel.stores[2:])
    for mutant in (
        changed(schedule, rounds, replace(rounds, count=attnc.expressions.tree.number(1))),
        changed(schedule, rounds, replace(rounds, kernels=(stuck,))),
    ):
        assert abs(interpreted(mutant, -9.0, 9.0).sum(-1) - 3.0).max() > 1e-6


def test_explain_says_how_many_passes_and_why(powers: attnc.Operator) -> None:
    text = powers.explain()
    assert "tau is solved for each row: a pass over the keys for the bracket" in text
    assert "at most 64 rounds" in text
