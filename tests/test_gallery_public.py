"""Gallery operators against PyTorch's attention: SDPA, and FlexAttention, not compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import entmax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attnc.backends.numpy_oracle import evaluate
from gallery_cases import load, spec_paths
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from attnc.cases import Shape, draw_case

PATHS = {path.stem: path for path in spec_paths()}
SHAPE = Shape(37, 37, 16, 16, 2, 2, 2)  # rows, keys, widths, batch, key heads, group

Tensors = dict[str, torch.Tensor]


def drawn(name: str, numbers: dict[str, Any]) -> tuple[Tensors, np.ndarray]:
    """Tensors of a call, and what the oracle says."""
    spec = load(PATHS[name])
    case = draw_case(spec, SHAPE, 5, numbers)
    out = evaluate(spec, case.tensors, case.numbers)["out"]
    return {each: torch.from_numpy(array) for each, array in case.tensors.items()}, out


@pytest.mark.parametrize("name, causal", [("softmax", False), ("causal_softmax", True)])
def test_sdpa(name: str, causal: bool) -> None:
    t, out = drawn(name, {})
    expected = F.scaled_dot_product_attention(
        t["q"], t["k"], t["v"], is_causal=causal, enable_gqa=True
    )
    np.testing.assert_allclose(out, expected.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "name, numbers, normalize",
    [
        ("sparsemax", {}, lambda s: entmax.sparsemax(s, dim=-1)),
        ("entmax15", {}, lambda s: entmax.entmax15(s, dim=-1)),
        ("entmax", {"alpha": 1.3}, lambda s: entmax.entmax_bisect(s, 1.3, n_iter=100)),
    ],
)
def test_entmax(name: str, numbers: dict[str, Any], normalize: Callable[..., Any]) -> None:
    t, out = drawn(name, numbers)
    group = t["q"].shape[1] // t["k"].shape[1]
    k, v = (t[one].repeat_interleave(group, 1) for one in "kv")
    scores = t["q"] @ k.mT * t["q"].shape[-1] ** -0.5
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = normalize(scores.masked_fill(hidden, -1e5))
    np.testing.assert_allclose(out, (weights @ v).numpy(), rtol=1e-9, atol=1e-9)


Mask = Callable[..., torch.Tensor]
MASKS: dict[str, tuple[dict[str, Any], Callable[[Tensors], Mask]]] = {
    "sliding_window": ({"window": 9}, lambda t: lambda b, h, i, j: (j <= i) & (i - j < 9)),
    "sink_window": (
        {"window": 5, "sinks": 3},
        lambda t: lambda b, h, i, j: (j <= i) & ((i - j < 5) | (j < 3)),
    ),
    "prefix": ({}, lambda t: lambda b, h, i, j: (j < t["length"][b]) | (j <= i)),
    "documents": ({}, lambda t: lambda b, h, i, j: t["doc"][b, i] == t["doc"][b, j]),
    "chunked": ({"size": 8}, lambda t: lambda b, h, i, j: (j <= i) & (i // 8 == j // 8)),
    "duo_heads": (
        {"sinks": 2, "recent": 6},
        lambda t: lambda b, h, i, j: (j <= i) & (t["retrieval"][h // 2] | (j < 2) | (i - j < 6)),
    ),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.filterwarnings("ignore")
def test_masks_of_flex_attention(name: str) -> None:
    numbers, make = MASKS[name]
    t, out = drawn(name, numbers)
    mask = create_block_mask(make(t), SHAPE.batch, 4, SHAPE.rows, SHAPE.keys, device="cpu")
    expected = flex_attention(t["q"], t["k"], t["v"], block_mask=mask, enable_gqa=True)
    np.testing.assert_allclose(out, expected.numpy(), rtol=1e-6, atol=1e-6)


def below(s: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    return torch.where(j <= i, s, -float("inf"))


SCORES: dict[str, tuple[dict[str, Any], Callable[..., torch.Tensor]]] = {
    "soft_cap": ({"cap": 2.0}, lambda s, b, h, i, j: below(2 * torch.tanh(s / 2), i, j)),
    "alibi": ({}, lambda s, b, h, i, j: below(s - 2.0 ** (-2 * (h + 1)) * (i - j), i, j)),
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.filterwarnings("ignore")
def test_scores_of_flex_attention(name: str) -> None:
    numbers, score = SCORES[name]
    t, out = drawn(name, numbers)
    expected = flex_attention(t["q"], t["k"], t["v"], score_mod=score, enable_gqa=True)
    np.testing.assert_allclose(out, expected.numpy(), rtol=1e-6, atol=1e-6)


def test_sdpa_both_ways() -> None:
    t, _ = drawn("bidirectional_cross", {"keep": 4})
    expected = F.scaled_dot_product_attention(t["q"], t["k"], t["v"], enable_gqa=True)
    full = {**t, "rows": torch.full_like(t["rows"], 37), "keys": torch.full_like(t["keys"], 37)}
    arrays = {name: tensor.numpy() for name, tensor in full.items()}
    spec = load(PATHS["bidirectional_cross"])
    found = evaluate(spec, arrays, {"keep": 4}, emit=["answer"])
    back = F.scaled_dot_product_attention(t["k"].repeat_interleave(2, 1), t["q"], t["u"])
    np.testing.assert_allclose(found["out"], expected.numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found["answer"], back.numpy(), rtol=1e-10, atol=1e-12)
