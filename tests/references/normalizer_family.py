"""The normalizer family."""

from __future__ import annotations

import numpy as np

from references import Pairs, by_sum, causal, reference, sigmoid, softmax, unit


@reference
def unnormalised_attention(t, n, offset):
    p = Pairs(t, offset)
    received = np.zeros((p.batch, p.heads, p.keys))
    for b, h, i in np.ndindex(p.batch, p.heads, p.rows):
        for j in range(min(i + offset + 1, p.keys)):
            received[b, h, j] += sigmoid(p.logit(b, h, i + offset, j))
    return p.attend(p.logit, causal, sigmoid), received


@reference
def exp_gated_norm(t, n, offset):
    p = Pairs(t, offset)
    out = p.attend(p.logit, causal, lambda s: np.exp(np.minimum(s, 5)))
    return out / np.sqrt((out**2).mean(-1, keepdims=True) + 1e-6)


@reference
def sinkhorn(t, n, offset):
    p = Pairs(t, offset)
    out = np.zeros((p.batch, p.heads, p.rows, p.v.shape[-1]))
    for b, h in np.ndindex(p.batch, p.heads):
        rows = [i for i in range(p.rows) if i + offset < t["length"][b]]
        keys = [j for j in range(p.keys) if j < t["length"][b]]
        if not rows or not keys:
            continue
        a = np.exp([[p.logit(b, h, i + offset, j) for j in keys] for i in rows])
        a /= a.sum(1, keepdims=True)
        for _ in range(2):
            a /= a.sum(0, keepdims=True)
            a /= a.sum(1, keepdims=True)
        for i, weights in zip(rows, a, strict=True):
            out[b, h, i] = sum(w * p.value(b, h, j) for w, j in zip(weights, keys, strict=True))
    return out


@reference
def shaped(t, n, offset):
    p = Pairs(t, offset)
    out = np.zeros((p.batch, p.heads, p.rows, p.v.shape[-1]))
    for b, h, row in np.ndindex(p.batch, p.heads, p.rows):
        i = row + offset
        keys = range(min(i + 1, p.keys))
        weights = softmax(np.array([p.logit(b, h, i, j) / n["temperature"] for j in keys]))
        mean = sum(p.value(b, h, j) for j in keys) / len(keys)
        mixed = sum(w * p.value(b, h, j) for w, j in zip(weights, keys, strict=True))
        out[b, h, row] = t["beta"][h] * mixed - t["gamma"][h] * mean
        if i < p.keys:
            out[b, h, row] += t["alpha"][h] * p.value(b, h, i)
    return out


@reference
def landmark(t, n, offset):
    p = Pairs(t, offset)
    size = n["size"]
    out = np.zeros((p.batch, p.heads, p.rows, p.v.shape[-1]))
    for b, h, row in np.ndindex(p.batch, p.heads, p.rows):
        i = row + offset
        groups: dict[int, list[int]] = {}
        for j in range(min(i + 1, p.keys)):
            mark, own = j % size == size - 1, j // size == i // size
            if not (own and mark):
                groups.setdefault(-1 if own or mark else j // size, []).append(j)
        within = {}
        for members in groups.values():
            shares = softmax(np.array([p.logit(b, h, i, j) for j in members]))
            within.update(zip(members, shares, strict=True))
        for j, share in within.items():
            block = j // size
            if j % size == size - 1:
                continue
            weight = share if block == i // size else share * within[block * size + size - 1]
            out[b, h, row] += weight * p.value(b, h, j)
    return out


@reference
def softplus_reweighted(t, n, offset):
    p = Pairs(t, offset)

    def pairs(b, h, i):
        keys = range(min(i + 1, p.keys))
        m = len(keys)
        cosines = [unit(p.query(b, h, i)) @ unit(p.key(b, h, j)) for j in keys]
        a = by_sum(np.log(1 + np.exp(np.log(p.width) * np.log(m) * np.array(cosines))))
        sharp = np.maximum(m * a - (0 if i < 3 else 1), 0) ** n["power"]
        return [(w, p.value(b, h, j)) for w, j in zip(by_sum(sharp), keys, strict=True)]

    return p.fold(pairs, lambda w: w)


@reference
def sparsemax(t, n, offset):
    def project(s):
        if not len(s):
            return s
        ordered = np.sort(s)[::-1]
        sums = np.cumsum(ordered)
        support = max(m for m in range(1, len(s) + 1) if 1 + m * ordered[m - 1] > sums[m - 1])
        return np.maximum(s - (sums[support - 1] - 1) / support, 0)

    p = Pairs(t, offset)
    return p.attend(p.logit, causal, project)
