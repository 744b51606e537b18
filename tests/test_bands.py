"""Pipelines whose rows run in bands: results and gradients against the dense formula, which arrays
a band makes, and memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

import attnc
from attnc.bench.probe import resident
from attnc.errors import UnsupportedError

# Statistics of groups, dropout, and an input of the rows.
GROUPS = """
attention groups(q, k, v):
    static size: int = 4
    input gain: real[b, i]
    mask: j <= i
    score: dot(q[i], k[j]) * scale + gain[i] * (j % 3)
    mean[i, j] = sum(l in j if l // size == j // size: exp(score[i, l]))
    normalize: dropout(softmax(j: score), 0.3) / (1 + mean)
"""
# Choices among all keys, which no kernel makes; every row more than once.
CHOICE = """
attention choice(q, k, v):
    center[j] = k[j] - mean(n in j: k[n])
    mask: j <= i
    score: dot(q[i], center[j]) * scale
    best[i, j] = topk(j: score, min(4, len(j)))
    normalize: softmax(j: where(best, score, -inf))
"""
TURNS = """
attention turns(q, k, v):
    near[i] = q[i]
    repeat r < 2:
        near[i] = sum(j: softmax(j: dot(near[i], k[j])) * k[j])
    score: dot(near[i], k[j]) * scale
    normalize: softmax(j: score)
"""


compiled = cache(partial(attnc.compile, backend="cpu"))


@pytest.fixture
def small_bands() -> Iterator[Any]:
    """Makes bands of an operator as small as that."""
    changed = []

    def change(op: Any, size: int = 1, rows: int = 5) -> None:
        module = op.module
        changed.append((module, module.BAND_BYTES, module.BAND_ROWS))
        module.BAND_BYTES, module.BAND_ROWS = size, rows

    yield change
    for module, size, rows in reversed(changed):
        module.BAND_BYTES, module.BAND_ROWS = size, rows


def results(op: Any, rows: int, more: dict[str, Any], keys: int = 15) -> list[torch.Tensor]:
    """The result and every gradient."""
    made = torch.Generator().manual_seed(rows)
    sizes = {"q": (2, 2, rows, 4), "k": (2, 1, keys, 4), "v": (2, 1, keys, 3), "gain": (2, rows)}
    names = [one.name for one in op.spec.inputs]
    x = {n: torch.randn(sizes[n], generator=made, dtype=torch.float64) for n in names}
    for one in x.values():
        one.requires_grad_()
    out = op(**x, **more)
    return [out.detach(), *torch.autograd.grad(out.sin().sum(), list(x.values()))]


@pytest.mark.usefixtures("quick_build")
@pytest.mark.parametrize("text", (GROUPS, CHOICE, TURNS), ids=("groups", "choice", "turns"))
def test_bands_are_the_dense_formula(text: str, small_bands: Any) -> None:
    op, eager = compiled(text), attnc.compile(text, backend="eager")
    more: dict[str, Any] = {"offset": 2, "seed": 7} if text is GROUPS else {}
    whole = results(op, 13, more)
    small_bands(op)
    for rows in (13, 0):
        for one, other in zip(results(op, rows, more), results(eager, rows, more), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    for one, other in zip(whole, results(op, 13, more), strict=True):
        assert not torch.equal(one, torch.zeros_like(one))
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert "in bands of i" in op.explain()


def test_random_numbers_are_numbered_by_entries_of_the_whole_batch() -> None:
    with pytest.raises(UnsupportedError, match="beside random numbers"):
        results(compiled(GROUPS), 13, {"offset": torch.tensor([2, 3]), "seed": 7})


@pytest.mark.usefixtures("quick_build")
def test_transforms_run_in_bands(small_bands: Any) -> None:
    """Tangents, gradients of a batch, and tangents of gradients."""
    op, eager = compiled(TURNS), attnc.compile(TURNS, backend="eager")
    small_bands(op)
    made = torch.Generator().manual_seed(0)
    x, dx = (
        tuple(torch.randn(2, rows, 4, generator=made).double() for rows in (13, 15, 15))
        for _ in range(2)
    )

    def forms(f: Any) -> Any:
        def call(*tensors: torch.Tensor) -> torch.Tensor:
            return f(*(one.view(1, -1, *one.shape[-2:]) for one in tensors))

        slopes = torch.func.grad(lambda *tensors: call(*tensors).sin().sum(), (0, 1, 2))
        return (
            torch.func.jvp(call, x, dx),
            torch.func.vmap(slopes)(*x),
            torch.func.jvp(slopes, x, dx),
        )

    torch.testing.assert_close(forms(op), forms(eager), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("quick_build")
def test_training_takes_memory_of_a_band(small_bands: Any) -> None:
    """All rows at once make rows times groups times a width."""
    op = compiled(GROUPS)

    def peak(rows: int) -> float:
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        results(op, rows, {}, rows)
        return (resident("VmHWM") - before) / 2**20

    small_bands(op, 1, 64)
    results(op, 128, {})  # what torch loads at the first checkpoint
    banded = peak(512)
    small_bands(op, 1 << 40, 64)
    whole = peak(512)
    assert banded < whole / 4, (banded, whole)
