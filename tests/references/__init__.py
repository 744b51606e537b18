"""Short NumPy references of the gallery, written from the papers' equations.

One function an operator, named as its spec, `(tensors, numbers, offset) -> out`, all in float64 and
loops: nothing here reads a .attn file or uses the compiler. `REFERENCES` holds them by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Reference = Callable[[dict[str, Array], dict[str, Any], int], Array]
REFERENCES: dict[str, Reference] = {}


def reference(function: Reference) -> Reference:
    """Enters a reference under its own name."""
    assert function.__name__ not in REFERENCES
    REFERENCES[function.__name__] = function
    return function


def softmax(s: Array) -> Array:
    """Weights of the visible keys; of none, none."""
    if not len(s):
        return s
    e = np.exp(s - s.max())
    return e / e.sum()


def by_sum(w: Array) -> Array:
    return w / w.sum() if w.sum() != 0 else np.zeros_like(w)


def always(*_: Any) -> bool:
    return True


class Pairs:
    """Rows and keys of a call with heads: query head h reads key head h // group.

    i and j are positions; rows of q are counted from the offset."""

    def __init__(self, t: dict[str, Array], offset: int = 0) -> None:
        self.q, self.k, self.v = t["q"], t["k"], t["v"]
        self.batch, self.heads, self.rows = self.q.shape[:3]
        self.group = max(self.heads // max(self.k.shape[1], 1), 1)
        self.keys, self.width = self.k.shape[2], self.q.shape[3]
        self.scale = 1 / np.sqrt(self.width)
        self.offset = offset

    def dot(self, b: int, h: int, i: int, j: int) -> float:
        return float(self.query(b, h, i) @ self.key(b, h, j))

    def logit(self, b: int, h: int, i: int, j: int) -> float:
        return self.dot(b, h, i, j) * self.scale

    def query(self, b: int, h: int, i: int) -> Array:
        return self.q[b, h, i - self.offset]

    def key(self, b: int, h: int, j: int) -> Array:
        return self.k[b, h // self.group, j]

    def value(self, b: int, h: int, j: int) -> Array:
        return self.v[b, h // self.group, j]

    def attend(
        self,
        score: Callable[[int, int, int, int], float],
        seen: Callable[[int, int, int, int], bool] = always,
        weigh: Callable[[Array], Array] = softmax,
    ) -> Array:
        """sum_j weigh(score)_j v_j over the keys that each row sees."""
        return self.fold(
            lambda b, h, i: [
                (score(b, h, i, j), self.value(b, h, j))
                for j in range(self.keys)
                if seen(b, h, i, j)
            ],
            weigh,
        )

    def fold(
        self,
        pairs: Callable[[int, int, int], list[tuple[float, Array]]],
        weigh: Callable[[Array], Array] = softmax,
    ) -> Array:
        """The same for rows that list their own scores and values."""
        out = np.zeros((self.batch, self.heads, self.rows, self.v.shape[-1]))
        for b, h, row in np.ndindex(self.batch, self.heads, self.rows):
            listed = pairs(b, h, row + self.offset)
            weights = weigh(np.array([s for s, _ in listed]))
            for w, (_, value) in zip(weights, listed, strict=True):
                out[b, h, row] += w * value
        return out


def causal(_b: int, _h: int, i: int, j: int) -> bool:
    return j <= i


def rotate(x: Array, p: int, base: float = 10000.0) -> Array:
    """The pairs (c, c + d/2) of a vector, each turned by p * base ** (-2 c / d)."""
    half = len(x) // 2
    out = np.empty_like(x)
    for c in range(half):
        angle = p * base ** (-2 * c / len(x))
        out[c] = x[c] * np.cos(angle) - x[c + half] * np.sin(angle)
        out[c + half] = x[c] * np.sin(angle) + x[c + half] * np.cos(angle)
    return out


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, dtype=float)))


def unit(x: Array) -> Array:
    return x / np.sqrt((x**2).sum())
