"""The positional family."""

from __future__ import annotations

import numpy as np

from references import Pairs, causal, reference, rotate


@reference
def rope(t, n, offset):
    p = Pairs(t, offset)
    return p.attend(
        lambda b, h, i, j: rotate(p.query(b, h, i), i) @ rotate(p.key(b, h, j), j) * p.scale, causal
    )


@reference
def transformer_xl(t, n, offset):
    p = Pairs(t, offset)

    def score(b, h, i, j):
        q, k, r = p.query(b, h, i), p.key(b, h, j), t["r"][h, i - j]
        return (q @ k + q @ r + t["u"][h] @ k + t["w"][h] @ r) * p.scale

    return p.attend(score, causal)


@reference
def mvpa(t, n, offset):
    p = Pairs(t, offset)
    times, channels = n["times"], n["channels"]

    def score(b, h, i, j):
        (ti, ci), (tj, cj) = divmod(i, channels), divmod(j, channels)
        q, k = p.query(b, h, i), p.key(b, h, j)
        content = (q + t["u"][h]) @ k if abs(ti - tj) <= 10 or ti == times - 1 else 0.0
        time = (q + t["w"][h]) @ t["rt"][h, ti - tj]
        return (content + time + (q + t["z"][h]) @ t["rc"][h, abs(ci - cj)]) * p.scale

    return p.attend(score, lambda b, h, i, j: j // channels <= i // channels)


@reference
def relative_bias(t, n, offset):
    p = Pairs(t, offset)
    height, width = n["height"], n["width"]

    def score(b, h, i, j):
        dy, dx = i // width - j // width, i % width - j % width
        return p.logit(b, h, i, j) + t["bias"][h, dy + height - 1, dx + width - 1]

    return p.attend(score)


@reference
def box_bias(t, n, offset):
    p = Pairs(t, offset)
    width = n["width"]

    def compress(x):
        return np.sign(x) * np.log2(abs(x) + 1) / np.log2(8)

    def network(first, second, w1, w2, c, out):
        return out @ np.maximum(w1 * compress(first) + w2 * compress(second) + c, 0)

    def score(b, h, i, j):
        y, x = divmod(j, width)
        row = i - offset
        bx = network(
            t["left"][b, row] - x, t["right"][b, row] - x, t["x1"], t["x2"], t["xc"], t["xo"][h]
        )
        by = network(
            t["top"][b, row] - y, t["bottom"][b, row] - y, t["y1"], t["y2"], t["yc"], t["yo"][h]
        )
        return p.logit(b, h, i, j) + bx + by

    return p.attend(score)


@reference
def pair_embedding(t, n, offset):
    p = Pairs(t, offset)

    def pairs(b, h, i):
        pk, pv = t["pk"][b, h, i - offset], t["pv"][b, h, i - offset]
        return [
            (p.query(b, h, i) @ (p.key(b, h, j) + pk[j]) * p.scale, p.value(b, h, j) + pv[j])
            for j in range(p.keys)
        ]

    return p.fold(pairs)


@reference
def positional_only(t, n, offset):
    heads, rows, d = t["q"].shape
    group = heads // t["k"].shape[0]
    out = np.zeros((t["v"].shape[0], heads, rows, t["v"].shape[-1]))
    for h in range(heads):
        s = t["q"][h] @ t["k"][h // group].T / np.sqrt(d)
        s[np.arange(s.shape[1])[None] > np.arange(rows)[:, None] + offset] = -np.inf
        a = np.exp(s - s.max(-1, keepdims=True))
        a /= a.sum(-1, keepdims=True)
        out[:, h] = a @ t["v"][:, h // group]
    return out
