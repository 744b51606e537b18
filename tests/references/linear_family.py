"""The families linear and convolution, and scans of both directions: dense formulas."""

from __future__ import annotations

import math

import numpy as np

from references import reference, sigmoid, softmax
from references.recurrent_family import by_token, feature, softplus, unit


def heads_of(t):
    """q, k, v with the key heads repeated."""
    group = t["q"].shape[1] // max(t["k"].shape[1], 1)
    return t["q"], np.repeat(t["k"], group, 1), np.repeat(t["v"], group, 1)


@reference
def linear_noncausal(t, n, offset):
    """One sum over all tokens, then a product with each query."""
    q, k, v = heads_of(t)
    seen = (np.arange(k.shape[2]) < t["length"][:, None])[:, None, :, None]
    keys = feature(k) * seen
    state = np.swapaxes(keys, -1, -2) @ v
    total = feature(q) @ keys.sum(2)[..., None]
    return feature(q) @ state / (total + n["eps"])


@reference
def taylor_linear(t, n, offset):
    """The quadratic form."""
    q, k, v = heads_of(t)
    s = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    weight = np.tril(1 + s + s * s / 2)
    return weight @ v / (weight.sum(-1, keepdims=True) + n["eps"])


@reference
def icl_linear(t, n, offset):
    """H + P H M (H^T Q H) / n, a token a column, M without the last."""
    out = np.zeros_like(t["x"])
    for b, x in enumerate(t["x"]):
        h = x.T
        m = np.diag(np.arange(len(x)) < len(x) - 1).astype(float)
        out[b] = (h + t["P"] @ h @ m @ (h.T @ t["Q"] @ h) / (len(x) - 1)).T
    return out


@reference
def performer(t, n, offset):
    """The quadratic form over the features."""
    q, k, v = heads_of(t)
    w = t["w"][None]

    def features(x):
        x = x / x.shape[-1] ** 0.25
        inner = x @ np.swapaxes(w, -1, -2) - (x * x).sum(-1, keepdims=True) / 2
        return (np.exp(inner) + n["eps"]) / np.sqrt(w.shape[-2])

    weight = np.tril(features(q) @ np.swapaxes(features(k), -1, -2))
    return weight @ v / weight.sum(-1, keepdims=True)


@reference
def cosformer(t, n, offset):
    """The linear form: features turned by sine and cosine of their positions, two states."""
    q, k, v = np.maximum(heads_of(t)[0], 0), *heads_of(t)[1:]
    k = np.maximum(k, 0)
    longest = max(q.shape[2], k.shape[2])

    def turned(x, first):
        angle = math.pi / 2 * (np.arange(x.shape[2]) + first) / longest
        return np.concatenate([x * np.sin(angle)[:, None], x * np.cos(angle)[:, None]], -1)

    fq, fk = turned(q, offset), turned(k, 0)
    return fq @ (np.swapaxes(fk, -1, -2) @ v) / np.maximum(fq @ fk.sum(2)[..., None], 1e-6)


@reference
def bi_wkv(t, n, offset):
    """Two sums that run towards the token from both sides, and the token itself."""
    k, v, r = t["k"], t["v"], t["r"]
    tokens = k.shape[1]
    out = np.zeros((k.shape[0], k.shape[2], r.shape[1]))
    for b, c, i in np.ndindex(*out.shape):
        above = below = 0.0
        for j in range(tokens):
            power = t["u"][c] / tokens if i == j else -(abs(i - j) - 1) * t["w"][c] / tokens
            above += np.exp(power + k[b, j, c]) * v[b, j, c]
            below += np.exp(power + k[b, j, c])
        out[b, c, i] = sigmoid(r[b, i, c]) * above / below
    return out


@reference
def jetblock(t, n, offset):
    taps, group = t["taps"], t["q"].shape[1] // max(t["v"].shape[1], 1)

    def step(m, b, h, i, q, k, v):
        mixed = np.zeros_like(v)
        for u in range(min(taps.shape[3], i + 1)):
            mixed += taps[b, h, i, u] * t["v"][b, h // group, i - u]
        mixed = mixed * sigmoid(mixed)
        alpha = np.exp(-np.exp(t["a"][h]) * softplus(t["x"][b, h, i] + t["bias"][h]))
        beta, k = sigmoid(t["beta"][b, h, i]), unit(k)
        m["S"] = alpha * (np.eye(len(k)) - beta * np.outer(k, k)) @ m["S"]
        m["S"] = m["S"] + beta * np.outer(k, mixed)
        return unit(q) @ m["S"]

    return by_token(t, step)


@reference
def efficient_attention(t, n, offset):
    """A row of the map of all pairs is a mixture of softmaxes over tokens, one a feature."""
    q, k, v = heads_of(t)
    out = np.zeros((*q.shape[:3], v.shape[3]))
    for b, h, i in np.ndindex(*out.shape[:3]):
        seen = max(min(t["length"][b], k.shape[2]), 0)
        for share, logits in zip(softmax(q[b, h, i]), k[b, h, :seen].T, strict=True):
            out[b, h, i] += share * (softmax(logits) @ v[b, h, :seen])
    return out


@reference
def grouped_linear(t, n, offset):
    """The matrices of pairs: squares on the diagonal blocks, products below them."""
    q, k, v = heads_of(t)
    size, rows = n["size"], np.arange(q.shape[2])
    k2 = np.repeat(t["k2"], q.shape[1] // max(t["k2"].shape[1], 1), 1)
    lag = rows[:, None] - rows[None]
    same = (rows[:, None] // size == rows[None] // size) & (lag >= 0)
    bias = t["bias"][:, np.clip(lag, 0, size - 1)]
    squares = np.maximum(q @ np.swapaxes(k, -1, -2) / size + bias, 0) ** 2 * same
    earlier = rows[:, None] // size > rows[None] // size
    linear = t["q2"] @ np.swapaxes(k2, -1, -2) / size * earlier
    mixed = np.zeros_like(v)
    for u in range(t["taps"].shape[1]):
        mixed[:, :, u:] += t["taps"][:, u, None] * v[:, :, : max(v.shape[2] - u, 0)]
    return t["gate"] * ((squares + linear) @ v + mixed)


# convolution --------------------------------------------------------------------------------------


@reference
def dynamic_conv(t, n, offset):
    v, logit = t["v"], t["logit"]
    out = np.zeros_like(v)
    for b, h, i in np.ndindex(*v.shape[:3]):
        for u, w in enumerate(softmax(logit[b, h, i])):
            if i - u >= 0:
                out[b, h, i] += w * v[b, h, i - u]
    return out


@reference
def gated_conv(t, n, offset):
    """The convolution by zero padding and windows."""
    x, taps = t["x"], t["taps"]
    padded = np.concatenate([np.zeros((len(x), len(taps), x.shape[2])), x], 1)
    mixed = sum(
        taps[u] * padded[:, len(taps) - u : len(taps) - u + x.shape[1]] for u in range(len(taps))
    )
    return mixed * (x @ t["W"].T + t["bias"]) + x


@reference
def sgu(t, n, offset):
    return t["u"] * (np.tril(t["W"]) @ t["v"] + t["bias"][:, None])


def convolved(kernel, z):
    """Causal, along the second axis of z; the kernel is over lags and channels."""
    out = np.zeros_like(z)
    for i, j in np.ndindex(z.shape[1], z.shape[1]):
        if j <= i:
            out[:, i] += kernel[i - j] * z[:, j]
    return out


@reference
def diag_ssm(t, n, offset):
    """The kernel of complex poles, held for a step."""
    poles, step = -np.exp(t["rate"]) + 1j * t["turn"], t["step"][:, None]
    weight = (t["C"] + 1j * t["Ci"]) * t["B"] * (np.exp(step * poles) - 1) / poles
    lags = np.arange(t["x"].shape[1])[:, None, None]
    kernel = (weight * np.exp(lags * step * poles)).sum(-1).real
    return convolved(kernel, t["x"]) + t["D"] * t["x"]


@reference
def h3(t, n, offset):
    k, lags = t["k"], np.arange(t["k"].shape[1])[:, None, None]
    z = np.zeros_like(k)
    for u, tap in enumerate(t["taps"]):
        z[:, u:] += tap * k[:, : max(k.shape[1] - u, 0)]
    z *= t["v"]
    poles = -np.exp(t["rate"]) + 1j * t["turn"]
    kernel = ((t["C"] + 1j * t["Ci"]) * np.exp(lags * poles)).sum(-1).real
    return t["q"] * (convolved(kernel, z) + t["D"] * z)


@reference
def multihyena(t, n, offset):
    """The filter at each lag, then the long convolution of outer products."""
    q, k, v = heads_of(t)
    poles = np.exp(-np.exp(t["rate"]) + 1j * t["turn"])
    out = np.zeros((*q.shape[:3], v.shape[3]))
    for b, h, i in np.ndindex(*out.shape[:3]):
        for j in range(i + 1):
            residues = (t["R"][h] + 1j * t["Ri"][h]) * poles[h] ** (i - j - 1)
            tap = residues.sum().real if j < i else t["now"][h]
            out[b, h, i] += tap * (q[b, h, i] @ k[b, h, j]) * v[b, h, j]
    return out


@reference
def dynamic_depthwise(t, n, offset):
    v, side = t["v"], n["size"]
    height, width = n["height"], n["width"]
    out = np.zeros_like(v)
    for b, h, y, x in np.ndindex(*v.shape[:2], height, width):
        for dy, dx in np.ndindex(side, side):
            a, c = y + dy - side // 2, x + dx - side // 2
            if 0 <= a < height and 0 <= c < width:
                tap = t["kernel"][b, h, y * width + x, dy * side + dx]
                out[b, h, y * width + x] += tap * v[b, h, a * width + c]
    return out
