"""Masks, scores and normalizers that people know, beside the catalogue."""

from __future__ import annotations

import numpy as np

from references import Pairs, by_sum, causal, reference, rotate, sigmoid, unit


def visible(name, seen):
    """A reference of plain softmax under a mask: seen(tensors, numbers, b, h, i, j)."""

    def run(t, n, offset):
        p = Pairs(t, offset)
        return p.attend(p.logit, lambda b, h, i, j: bool(seen(t, n, b, h, i, j)))

    run.__name__ = name
    return reference(run)


def weighed(name, weigh):
    """A reference of causal scores under weights: weigh(numbers, scores of the visible keys)."""

    def run(t, n, offset):
        p = Pairs(t, offset)
        return p.attend(p.logit, causal, lambda s: weigh(n, s))

    run.__name__ = name
    return reference(run)


visible(
    "dilated_window",
    lambda t, n, b, h, i, j: i - j in [n["step"] * m for m in range(n["size"])],
)
visible("prefix", lambda t, n, b, h, i, j: j <= i or j < t["length"][b])
visible("documents", lambda t, n, b, h, i, j: 0 <= t["doc"][b, i] == t["doc"][b, j])
visible("chunked", lambda t, n, b, h, i, j: i // n["size"] * n["size"] <= j <= i)
visible(
    "strided",
    lambda t, n, b, h, i, j: j in range(i - n["step"] + 1, i + 1) or j in range(i, -1, -n["step"]),
)
visible(
    "fixed",
    lambda t, n, b, h, i, j: (
        j <= i
        and (i // n["size"] == j // n["size"] or j % n["size"] in range(n["size"])[-n["last"] :])
    ),
)
visible("block_diagonal", lambda t, n, b, h, i, j: i // n["size"] == j // n["size"])
visible(
    "block_sparse",
    lambda t, n, b, h, i, j: j <= i and t["listed"][b, h, i // n["size"], j // n["size"]],
)
visible("per_head_windows", lambda t, n, b, h, i, j: i - t["window"][h] < j <= i)
visible(
    "split_heads",
    lambda t, n, b, h, i, j: i - n["window"] < j <= i if h < n["near"] else j <= i,
)

weighed("off_by_one", lambda n, s: np.exp(s) / (1 + np.exp(s).sum()))
weighed("relu_length", lambda n, s: np.maximum(s, 0) / max(len(s), 1))
weighed("relu_squared", lambda n, s: np.maximum(s, 0) ** 2)
weighed("softplus", lambda n, s: by_sum(np.log1p(np.exp(s))))
weighed("polynomial", lambda n, s: by_sum(s ** n["degree"]))
weighed("plain_sum", lambda n, s: s)
weighed(
    "stick_breaking",
    lambda n, s: sigmoid(s) * np.append(np.cumprod(1 - sigmoid(s[::-1]))[::-1], 1)[1:],
)


@reference
def contextual_positions(t, n, offset):
    p = Pairs(t, offset)
    last = t["table"].shape[1] - 1

    def score(b, h, i, j):
        place = min(sum(sigmoid(p.dot(b, h, i, key)) for key in range(j, i + 1)), last)
        taps = t["table"][h] @ p.query(b, h, i)
        return p.logit(b, h, i, j) + np.interp(place, range(last + 1), taps)

    return p.attend(score, causal)


@reference
def soft_cap(t, n, offset):
    p = Pairs(t, offset)
    return p.attend(lambda *at: n["cap"] * np.tanh(p.logit(*at) / n["cap"]), causal)


@reference
def alibi(t, n, offset):
    p = Pairs(t, offset)
    slopes = [2 ** (-8 / p.heads * (h + 1)) for h in range(p.heads)]
    return p.attend(lambda b, h, i, j: p.logit(b, h, i, j) - slopes[h] * (i - j), causal)


@reference
def bucketed_bias(t, n, offset):
    p = Pairs(t, offset)
    half, reach = n["buckets"] // 2, n["reach"]
    near = half // 2

    def bucket(i, j):
        distance = abs(j - i)
        place = distance
        if distance >= near:
            place = near
            while place < half - 1 and distance >= near * (reach / near) ** (
                (place + 1 - near) / (half - near)
            ) * (1 - 1e-9):
                place += 1
        return place + (half if j > i else 0)

    return p.attend(lambda b, h, i, j: p.dot(b, h, i, j) + t["bias"][h, bucket(i, j)])


@reference
def cosine(t, n, offset):
    p = Pairs(t, offset)
    return p.attend(
        lambda b, h, i, j: unit(p.query(b, h, i)) @ unit(p.key(b, h, j)) * t["temperature"][h],
        causal,
    )


@reference
def qk_rmsnorm(t, n, offset):
    p = Pairs(t, offset)

    def normed(x, gain):
        return x / np.sqrt((x**2).mean() + 1e-6) * gain

    def score(b, h, i, j):
        q = rotate(normed(p.query(b, h, i), t["gain"]), i)
        return q @ rotate(normed(p.key(b, h, j), t["own"]), j) * p.scale

    return p.attend(score, causal)


@reference
def distance(t, n, offset):
    p = Pairs(t, offset)
    return p.attend(
        lambda b, h, i, j: -(np.linalg.norm(p.query(b, h, i) - p.key(b, h, j)) ** 2) * p.scale
    )


@reference
def query_relative(t, n, offset):
    p = Pairs(t, offset)

    def score(b, h, i, j):
        lag = min(max(j - i, -n["reach"]), n["reach"])
        return p.query(b, h, i) @ (p.key(b, h, j) + t["r"][lag + n["reach"]]) * p.scale

    return p.attend(score)


@reference
def learned_sinks(t, n, offset):
    p = Pairs(t, offset)
    out = np.zeros((p.batch, p.heads, p.rows, p.v.shape[-1]))
    for b, h, row in np.ndindex(p.batch, p.heads, p.rows):
        i = row + offset
        keys = [j for j in range(p.keys) if i - n["window"] < j <= i]
        weights = np.exp([p.logit(b, h, i, j) for j in keys])
        total = weights.sum() + np.exp(t["sink"][h])
        out[b, h, row] = sum(w * p.value(b, h, j) for w, j in zip(weights, keys, strict=True))
        out[b, h, row] /= total
    return out


@reference
def sigmoid_bias(t, n, offset):
    p = Pairs(t, offset)
    return p.attend(lambda b, h, i, j: p.logit(b, h, i, j) + t["bias"][h], causal, sigmoid)


@reference
def feature_sum(t, n, offset):
    p = Pairs(t, offset)

    def phi(x):
        return np.where(x > 0, x, np.exp(x) - 1) + 1

    return p.attend(lambda b, h, i, j: phi(p.query(b, h, i)) @ phi(p.key(b, h, j)), causal, by_sum)


@reference
def exp_gate(t, n, offset):
    p = Pairs(t, offset)
    out = p.attend(p.logit, causal, lambda s: np.exp(np.minimum(s, 5)))
    return out * sigmoid(t["gate"])[..., None]


def power_of_simplex(alpha):
    """Weights ((alpha - 1) s - tau)^(1 / (alpha - 1)), 0 below, whose sum is 1: by halving."""

    def weigh(s):
        if not len(s):
            return s
        x = (alpha - 1) * s
        low, high = x.max() - 1, x.max()
        for _ in range(100):
            middle = (low + high) / 2
            mass = (np.maximum(x - middle, 0) ** (1 / (alpha - 1))).sum()
            low, high = (middle, high) if mass > 1 else (low, middle)
        return np.maximum(x - low, 0) ** (1 / (alpha - 1))

    return weigh


weighed("entmax15", lambda n, s: power_of_simplex(1.5)(s))
weighed("entmax", lambda n, s: power_of_simplex(n["alpha"])(s))
