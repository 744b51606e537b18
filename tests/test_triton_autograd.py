"""Derivatives through `backend="triton"`, in Triton's interpreter: what torch asks of an operator
(see test_autograd, whose questions these are), and dropout."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported anywhere

import numpy as np
import pytest
import torch
import triton_interpreter  # noqa: F401
from test_autograd import BIASED, CAUSAL, VALUES, draw
from test_random import DROPPED

import attnc
from attnc import philox

# A bias of keys and a table, the same for the whole batch: their gradients go around it.
SHARED = """\
attention shared(q, k, v):
    input bias: real[h, j], table: real[h, lag in -12..30]
    mask: j <= i
    score: dot(q[i], k[j]) * scale + bias[j] + table[min(i - j, 7)]
    normalize: softmax(j: score)
"""
# An axis of the text's own that bears the name of what a kernel might call its groups.
NAMED = """\
attention named(q, k, v) for i over j | g:
    input kg: real[b, hk, g, d], vg: real[b, hk, g, e]
    score[j]: dot(q[i], k[j]) * scale
    score[g]: dot(q[i], kg[g]) * scale
    normalize: softmax(j | g: score)
    read: sum(j: weight * v[j]) + sum(g: weight * vg[g])
"""


@cache
def operator(text: str, backend: str) -> Any:
    return attnc.compile(text, backend=backend)


@pytest.mark.parametrize("name", VALUES)
def test_derivatives(name: str) -> None:
    """The kernels and the dense formula give the same to float64."""
    found, truth = (VALUES[name](operator(CAUSAL, backend)) for backend in ("triton", "eager"))
    for ours, theirs in zip(found, truth, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def gradients(op: Any, tensors: dict[str, torch.Tensor], **given: Any) -> list[torch.Tensor]:
    """The result and the gradient of each real tensor of a call."""
    leaves = {n: x.clone().requires_grad_() for n, x in tensors.items() if x.is_floating_point()}
    out = op(**{**tensors, **leaves}, **given)
    drawn = draw(*out.shape, seed=9)
    return [out, *torch.autograd.grad(out, list(leaves.values()), drawn)]


def agree(text: str, tensors: dict[str, torch.Tensor], **given: Any) -> None:
    found, truth = (gradients(operator(text, b), tensors, **given) for b in ("triton", "eager"))
    for ours, theirs in zip(found, truth, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def tensors_of(rows: int, keys: int) -> dict[str, torch.Tensor]:
    shapes = {"q": (2, 4, rows, 8), "k": (2, 2, keys, 8), "v": (2, 2, keys, 5)}
    return {name: draw(*shape) for name, shape in shapes.items()}


def test_inputs_of_every_kind() -> None:
    slope, bias = draw(4), draw(4, 5, 7)
    kind = torch.tensor([[0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0]])
    agree(BIASED, tensors_of(5, 7) | {"slope": slope, "bias": bias, "kind": kind}, offset=1)


@pytest.mark.parametrize(
    "given",
    [
        {"offset": [5, 3], "key_length": [7, 3]},
        {"key_offset": [0, 2], "offset": [4, 3]},
        {"key_length": [11, 0]},
        {"key_length": 7, "offset": 2},
    ],
)
def test_positions_and_lengths_of_a_batch(given: dict[str, Any]) -> None:
    """Each row of the batch has its own, also where a gradient sums over the batch."""
    numbers = {
        name: torch.tensor(value) if isinstance(value, list) else value
        for name, value in given.items()
    }
    agree(SHARED, tensors_of(9, 11) | {"bias": draw(4, 11), "table": draw(4, 42)}, **numbers)


def test_axes_named_as_ours() -> None:
    more = {"kg": draw(2, 2, 6, 8), "vg": draw(2, 2, 6, 5)}
    agree(NAMED, tensors_of(5, 7) | more)


# --- Dropout --------------------------------------------------------------------------------------


def kept(backend: str, rows: int, heads: int, seed: int, offset: int) -> list[np.ndarray]:
    """Which visible pairs [b, h, i, j] the forward keeps, and which the backward: the result of
    one-hot values is the weights, and so is the gradient of values where cotangents are one-hot."""
    q, k = draw(2, heads, rows, 8), draw(2, heads, rows, 8, seed=1)
    v = torch.eye(rows, dtype=torch.float64).expand(2, heads, rows, rows).clone().requires_grad_()
    out = operator(DROPPED, backend)(q, k, v, rate=0.4, seed=seed, offset=offset)
    (grad,) = torch.autograd.grad(out, v, torch.eye(rows, dtype=torch.float64).expand(out.shape))
    return [(out != 0).detach().numpy(), (grad.mT != 0).numpy()]


@pytest.mark.parametrize("seed, offset", [(12, 0), (-(2**63), 3)])
def test_backward_drops_what_the_forward_dropped(seed: int, offset: int) -> None:
    """Forward and backward of both backends, bit for bit what the oracle's numbers keep."""
    rows, heads = 19, 3
    b, h = np.arange(2)[:, None, None, None], np.arange(heads)[:, None, None]
    i, j = np.arange(rows)[:, None], np.arange(rows)
    wanted = (philox.uniform(seed, 0, b, h, i + offset, j) >= 0.4) & (j <= i + offset)
    for backend in ("cpu", "triton"):
        for found in kept(backend, rows, heads, seed, offset):
            assert np.array_equal(found, wanted)


def test_gradients_under_dropout() -> None:
    """Grouped heads, in float64 against eager, whose numbers are the oracle's."""
    agree(DROPPED, tensors_of(21, 26), rate=0.4, seed=12, offset=5)
