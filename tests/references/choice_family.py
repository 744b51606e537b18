"""Operators that choose rows and keys, keep them in caches, and tell what a map says."""

from __future__ import annotations

import numpy as np
from catalogue_formulas import heads, scale, sigmoid, softmax

from references import reference
from references.pipeline_family import best, row


def empty(t):
    return np.zeros((*t["q"].shape[:3], t["v"].shape[-1]))


def weights_of(q, k, keys, factor):
    """The weights of one row over all keys, 0 where it sees none."""
    found = np.zeros(len(k))
    if len(keys):
        found[keys] = softmax(k[keys] @ q * factor)
    return found


@reference
def gat(t, n, offset):
    x, w, near = t["x"], t["w"], t["near"]
    out = np.zeros((len(x), len(w), x.shape[1], w.shape[2]))
    for b, h in np.ndindex(out.shape[:2]):
        z = x[b] @ w[h]
        for i in range(len(z)):
            seen = [j for j in range(len(z)) if near[b, i, j] or i == j]
            e = np.array([t["target"][h] @ z[i] + t["source"][h] @ z[j] for j in seen])
            out[b, h, i] = softmax(np.where(e > 0, e, 0.2 * e)) @ z[seen]
    return out


@reference
def sdim(t, n, offset):
    q, k = t["q"], t["k"]
    out = np.zeros(q.shape)
    for b, i in np.ndindex(q.shape[:2]):
        for plane in t["plane"]:
            own = plane @ q[b, i] > 0
            total = np.zeros(q.shape[2])
            for j in range(max(min(t["length"][b], k.shape[1]), 0)):
                if ((plane @ k[b, j] > 0) == own).all():
                    total = total + k[b, j]
            size = np.linalg.norm(total)
            out[b, i] += (total / size if size else 0) / len(t["plane"])
    return out


@reference
def probsparse(t, n, offset):
    out = empty(t)
    for b, h, q, k, v in heads(t):
        drawn = np.array([k[each] @ one for each, one in zip(t["sample"], q, strict=True)])
        chosen = best(drawn.max(1) - drawn.sum(1) / len(k), n["active"])
        for i in range(len(q)):
            keys = np.arange(i + 1 if n["causal"] else len(k))
            lazy = v[keys].sum(0) if n["causal"] else v.mean(0)
            out[b, h, i] = row(q[i], k, v, keys, scale(t)) if chosen[i] else lazy
    return out


@reference
def selective_lookups(t, n, offset):
    out = t["x"].astype(float).copy()
    gates = [softmax(x @ t["w"]) for x in t["x"]]
    count = int(np.ceil(np.sqrt(t["q"].shape[2])))
    for b, h, q, k, v in heads(t):
        chosen = best(gates[b], count)
        for i in range(len(q)):
            if chosen[i] or not n["hard"]:
                found = row(q[i], k, v, range(i + 1), scale(t)) @ t["out"][h]
                out[b, i] += gates[b][i] * found
    return out


@reference
def bidirectional_cross(t, n, offset):
    out, count = empty(t), t["k"].shape[2]
    answer = np.zeros((*t["q"].shape[:2], count, t["u"].shape[-1]))
    received = np.zeros((len(out), count))
    for b, h, q, k, v in heads(t):
        rows = np.arange(min(max(t["rows"][b], 0), len(q)))
        keys = np.arange(min(max(t["keys"][b], 0), len(k)))
        s = q[rows] @ k[keys].T * scale(t)
        out[b, h, rows] = softmax(s, 1) @ v[keys]
        answer[b, h, keys] = softmax(s.T, 1) @ t["u"][b, h, rows]
        received[b, keys] += softmax(s, 1).sum(0)
    kept = np.array(
        [best(x, n["keep"], np.arange(count) < t["keys"][b]) for b, x in enumerate(received)]
    )
    return out, answer, kept


@reference
def attention_statistics(t, n, offset):
    out, (batch, count, rows, _) = empty(t), t["q"].shape
    received, duration = np.zeros((batch, count, rows)), np.zeros((batch, count, rows))
    distance, focus = np.zeros((batch, count, rows)), np.zeros((batch, count))
    coverage = np.zeros((batch, count))
    for b, h, q, k, v in heads(t):
        a = np.array([weights_of(q[i], k, np.arange(i + 1), scale(t)) for i in range(rows)])
        out[b, h] = a @ v
        for j in range(rows):
            later = range(j + 1, min(j + n["horizon"], rows - 1) + 1)
            received[b, h, j] = np.mean([a[i, j] for i in later]) if len(later) else 0
        duration[b, h] = np.bincount(a.argmax(1), minlength=rows)
        focus[b, h] = a.max(1).mean()
        for i in range(rows):
            distance[b, h, i] = sum(a[i, j] * min(i - j, n["window"]) for j in range(i + 1))
        coverage[b, h] = n["beta"] * np.log(np.minimum(a.sum(0), 1)).sum()
    return out, received, duration, focus, distance, coverage


@reference
def attention_gradcam(t, n, offset):
    out, count = empty(t), t["q"].shape[1]
    cam, grounded = np.zeros((2, len(out), t["k"].shape[2]))
    for b, h, q, k, v in heads(t):
        keys = np.arange(max(min(t["length"][b], len(k)), 0))
        a = np.array([weights_of(one, k, keys, scale(t)) for one in q])
        out[b, h] = a @ v
        moved = t["g"][b, h] @ v.T  # the derivative of sum(g * out) by the map
        cam[b] += np.maximum(a * moved, 0).sum(0) / count
        grounded[b] += (a * np.maximum(moved, 0)).sum(0) / count
    return out, cam, grounded


@reference
def attention_rollout(t, n, offset):
    out, (batch, depth, count, tokens, _) = empty(t), t["ql"].shape
    product = np.zeros((batch, tokens, tokens))
    for b in range(batch):
        product[b] = np.eye(tokens)
        for r in range(depth):
            scores = t["ql"][b, r] @ np.swapaxes(t["kl"][b, r], -1, -2) * scale(t)
            mixed = softmax(scores).mean(0)
            product[b] = (0.5 * mixed + 0.5 * np.eye(tokens)) @ product[b]
    for b, h, q, k, v in heads(t):
        for i in np.flatnonzero(best(product[b, 0], n["keep"])):
            out[b, h, i] = row(q[i], k, v, range(len(k)), scale(t))
    return out, product[:, 0]


@reference
def speculative_verify(t, n, offset):
    out = empty(t)
    for b, h, q, k, v in heads(t):
        for i in range(len(q)):
            nodes = offset + np.flatnonzero(t["tree"][b, i])
            out[b, h, i] = row(q[i], k, v, [*range(offset), *nodes], scale(t))
    return out


@reference
def benchmark_harness(t, n, offset):
    out = empty(t)
    seen = np.zeros((t["q"].shape[2], t["k"].shape[2]), bool)
    for a, b, c, d, after, before in zip(
        *(t[name] for name in ("q0", "q1", "k0", "k1", "after", "before")), strict=True
    ):
        for i in range(a, b):
            last = i + d - b if after else d - 1  # the last row of a causal box sees its last key
            first = (
                i + c - a if before else c
            )  # the first row of an inverse one begins at its first
            seen[i, max(first, c) : min(last, d - 1) + 1] = True
    for b, h, q, k, v in heads(t):
        for i in range(len(q)):
            out[b, h, i] = row(q[i], k, v, np.flatnonzero(seen[i]), scale(t))
    return out


@reference
def futurefill(t, n, offset):
    u, phi, cache = t["u"], t["filter"], t["cache"]
    known, reach = u.shape[1], len(phi)
    y = cache.astype(float).copy()  # shares of all later results, of this call's rows the first
    for s in range(cache.shape[1]):
        for x in range(known):
            if 0 <= s - x < reach:
                y[:, s] += u[:, x] * phi[s - x]
    future = np.zeros_like(y)
    future[:, : y.shape[1] - known] = y[:, known:]
    for s in range(y.shape[1] - known, y.shape[1]):  # beyond the old cache: of the new rows alone
        for x in range(known):
            if known + s - x < reach:
                future[:, s] += u[:, x] * phi[known + s - x]
    return y[:, :known], future


@reference
def linear_sequence_parallel(t, n, offset):
    out = empty(t)
    for b, h, q, k, v in heads(t):
        memory, decay = np.zeros((k.shape[1], v.shape[1])), np.exp(-t["slope"][h])
        for i in range(len(q)):
            memory = decay * memory + np.outer(k[i], v[i])
            out[b, h, i] = q[i] @ memory
    return out
