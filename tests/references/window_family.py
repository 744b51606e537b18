"""The window family."""

from __future__ import annotations

import numpy as np

from references import Pairs, reference, rotate, sigmoid, softmax


@reference
def sliding_window(t, n, offset):
    p = Pairs(t, offset)
    return p.attend(p.logit, lambda b, h, i, j: j in range(i - n["window"] + 1, i + 1))


@reference
def sink_window(t, n, offset):
    p = Pairs(t, offset)
    window, sinks = n["window"], n["sinks"]
    return p.attend(
        p.logit,
        lambda b, h, i, j: j in [*range(min(sinks, i + 1)), *range(i - window + 1, i + 1)],
    )


@reference
def global_window(t, n, offset):
    p = Pairs(t, offset)
    size = n["size"]

    def pairs(b, h, i):
        g, length = h // p.group, t["length"][b]
        if t["special"][b, i]:
            qg = t["qg"][b, h, i - offset]
            keys = [j for j in range(p.keys) if j < length]
            return [(qg @ t["kg"][b, g, j] * p.scale, t["vg"][b, g, j]) for j in keys]
        return [
            (p.logit(b, h, i, j), p.value(b, h, j))
            for j in range(p.keys)
            if j < length
            and (
                -n["reach"] <= j - i <= n["reach"]
                or t["special"][b, j]
                or t["listed"][h, i // size, j // size]
            )
        ]

    return p.fold(pairs)


@reference
def frame_window(t, n, offset):
    p = Pairs(t, offset)

    def seen(b, h, i, j):
        fi, fj = i // n["tokens"], j // n["tokens"]
        return fj <= fi and (fi - fj < n["window"] or fj < n["sinks"])

    return p.attend(
        lambda b, h, i, j: rotate(p.query(b, h, i), i) @ rotate(p.key(b, h, j), j) * p.scale, seen
    )


@reference
def dual_scope_window(t, n, offset):
    p = Pairs(t, offset)

    def pairs(b, h, i):
        frame = i // n["tokens"]
        scale = p.scale * n["stretch"]
        local = [
            (p.dot(b, h, i, j) * scale + n["near"], p.value(b, h, j))
            for j in range(p.keys)
            if abs(j // n["tokens"] - frame) <= n["reach"]
        ]
        kg, vg = t["kg"][b, h // p.group], t["vg"][b, h // p.group]
        return local + [
            (p.query(b, h, i) @ kg[g] * scale + n["far"], vg[g])
            for g in range(len(kg))
            if abs(t["frame"][g] - frame) > n["reach"]
        ]

    return p.fold(pairs)


@reference
def interval_mask(t, n, offset):
    p = Pairs(t, offset)
    return p.attend(
        p.logit,
        lambda b, h, i, j: j in range(t["lo"][b, i - offset], t["hi"][b, i - offset]),
    )


@reference
def gaussian_local(t, n, offset):
    p = Pairs(t, offset)
    out = np.zeros((p.batch, p.heads, p.rows, p.v.shape[-1]))
    deviation = n["reach"] / 2
    for b, h, row in np.ndindex(p.batch, p.heads, p.rows):
        i = row + offset
        centre = p.keys * sigmoid(t["u"][h] @ np.tanh(p.query(b, h, i) @ t["w"][h]))
        keys = [j for j in range(p.keys) if abs(j - centre) <= n["reach"]]
        weights = softmax(np.array([p.logit(b, h, i, j) for j in keys]))
        for j, w in zip(keys, weights, strict=True):
            gauss = np.exp(-((j - centre) ** 2) / (2 * deviation**2))
            out[b, h, row] += w * gauss * p.value(b, h, j)
    return out
