"""Defs of the library that no gallery operator shows, and those of `grid`, point by point."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from attnc.backends.numpy_oracle import evaluate
from references import rotate

from attnc.front import read_spec
from attnc.source import Source

SEEN: dict[str, tuple[str, Callable[[int, int], bool]]] = {
    "causal(i, j)": ("masks", lambda i, j: j <= i),
    "band(i, j, 2, 1)": ("masks", lambda i, j: i - 2 <= j <= i + 1),
    "is_sink(i, j, 3)": ("masks", lambda i, j: j <= i and j < 3),
    "block_causal(i, j, 4)": ("masks", lambda i, j: j < (i // 4 + 1) * 4),
    "disc(i - 5, j - 5, 3)": ("masks", lambda i, j: (i - 5) ** 2 + (j - 5) ** 2 < 9),
    "window(i, j, 3)": ("grid", lambda i, j: j in (i, i - 1, i - 2)),
    "same(i, j, 4)": ("grid", lambda i, j: i // 4 == j // 4),
}


def arrays(width: int = 4, length: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: rng.standard_normal((1, 1, length, width)) for name in "qkv"}


def operator(module: str, name: str, **clauses: str):
    """causal attention, with some clauses replaced and one name imported."""
    known = {"score": "dot(q[i], k[j]) * scale", "normalize": "softmax(j: score)"} | clauses
    body = "".join(f"    {clause}: {text}\n" for clause, text in known.items())
    text = f"from {module} import {name}\nattention f(q, k, v):\n{body}"
    return read_spec(Source(text, "f.attn"))


@pytest.mark.parametrize("call", SEEN)
def test_masks(call: str) -> None:
    module, seen = SEEN[call]
    spec = operator(module, call.split("(")[0], mask=call)
    score = evaluate(spec, arrays(), emit=("score",))["score"][0, 0]
    expected = [[seen(i, j) for j in range(12)] for i in range(12)]
    np.testing.assert_array_equal(score > -np.inf, expected)


def scores(module: str, name: str, score: str, width: int = 8) -> np.ndarray:
    spec = operator(module, name, score=score)
    return evaluate(spec, arrays(width), emit=("score",))["score"].reshape(-1, 12, 12)[0]


def test_polynomial() -> None:
    t = arrays(8)
    expected = (t["q"][0, 0] @ t["k"][0, 0].T + 2) ** 3
    found = scores("scores", "polynomial", "polynomial(dot(q[i], k[j]), 3, shift = 2)")
    np.testing.assert_allclose(found, expected, rtol=1e-12)


ELEMENTARY: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "tan": ("tan(%s)", np.tan),
    "sinh": ("sinh(%s)", np.sinh),
    "cosh": ("cosh(%s)", np.cosh),
    "asinh": ("asinh(%s)", np.arcsinh),
    "acosh": ("acosh(1 + %s ** 2)", lambda x: np.arccosh(1 + x**2)),
    "atanh": ("atanh(tanh(%s) / 2)", lambda x: np.arctanh(np.tanh(x) / 2)),
    "angle": ("angle(%s, i - j)", lambda x: np.arctan2(x, np.subtract.outer(*[np.arange(12)] * 2))),
}


@pytest.mark.parametrize("name", ELEMENTARY)
def test_elementary(name: str) -> None:
    text, expected = ELEMENTARY[name]
    t = arrays(8)
    found = scores("elementary", name, text % "dot(q[i], k[j])")
    np.testing.assert_allclose(found, expected(t["q"][0, 0] @ t["k"][0, 0].T), rtol=1e-12)


def test_hidden_layer() -> None:
    t = arrays(8)
    hidden = np.tanh(t["q"][0, 0][:, None] + t["k"][0, 0][None])
    found = scores("scores", "hidden_layer", "hidden_layer(d: q[i], k[j], 0.5)")
    np.testing.assert_allclose(found, 0.5 * hidden.sum(-1), rtol=1e-12)


def test_bucket_past_is_that_of_t5() -> None:
    """The published rule for causal models: half of the buckets exact, then logarithms."""
    found = scores("scores", "bucket_past", "1.0 * bucket_past(i, j, 8, 10)")
    for i, j in np.ndindex(12, 12):
        lag = max(i - j, 0)
        large = 4 + int(np.log(max(lag, 1) / 4) / np.log(10 / 4) * 4) if lag >= 4 else lag
        assert found[i, j] == min(large, 7)


def test_by_clamped_sum() -> None:
    t = arrays()
    spec = operator("normalizers", "by_clamped_sum", normalize="by_clamped_sum(j: score, 0.5)")
    s = t["q"][0, 0] @ t["k"][0, 0].T / 2
    weights = s / np.maximum(abs(s.sum(-1, keepdims=True)), 0.5)
    np.testing.assert_allclose(evaluate(spec, t)["out"][0, 0], weights @ t["v"][0, 0], rtol=1e-10)


def turned(call: str) -> np.ndarray:
    """The vectors that a rotation of q makes, read off products with unit keys."""
    t = arrays(8, 8)
    t["k"] = np.eye(8)[None, None]
    spec = operator("positional", call.split("(")[0], score=f"dot({call}, k[j])")
    return evaluate(spec, t, emit=("score",))["score"][0, 0]


def test_rotary_pairs_is_the_interleaved_layout() -> None:
    found = turned("rotary_pairs(d: q[i], i)")
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    for i, x in enumerate(arrays(8, 8)["q"][0, 0]):
        np.testing.assert_allclose(found[i][order], rotate(x[order], i), rtol=1e-10)


def test_rotary_part_leaves_the_rest() -> None:
    found = turned("rotary_part(d: q[i], i, 4)")
    for i, x in enumerate(arrays(8, 8)["q"][0, 0]):
        np.testing.assert_allclose(found[i], [*rotate(x[:4], i), *x[4:]], rtol=1e-10)


def test_rotary_grid_turns_half_by_each_coordinate() -> None:
    found = turned("rotary_grid(d: q[i], i // 3, i % 3)")
    first, second = [0, 1, 4, 5], [2, 3, 6, 7]
    for i, x in enumerate(arrays(8, 8)["q"][0, 0]):
        np.testing.assert_allclose(found[i][first], rotate(x[first], i // 3), rtol=1e-10)
        np.testing.assert_allclose(found[i][second], rotate(x[second], i % 3), rtol=1e-10)
