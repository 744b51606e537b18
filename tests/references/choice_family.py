"""Operators that choose rows and keys."""

from __future__ import annotations

import numpy as np
from catalogue_formulas import heads, scale, softmax

from references import reference, rotate
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


def blocks_of(x, size):
    """The pieces of an array's first axis; the last may be short."""
    return np.split(x, range(size, len(x), size))


def means(x, size):
    return np.array([piece.mean(0) for piece in blocks_of(x, size)])


@reference
def seer_attention(t, n, offset):
    out, block = empty(t), n["block"]
    batch, count, rows, _ = t["q"].shape
    sizes = (batch, count, -(-rows // block), -(-rows // block))
    gates, target = np.zeros(sizes), np.zeros(sizes)
    group = count // t["k"].shape[1]
    for b, h, q, k, v in heads(t):
        pooled = means(q, block) @ t["wq"][h]
        gq = [rotate(x, r) for r, x in enumerate(pooled)]
        gk = []
        for s, piece in enumerate(blocks_of(k, block)):
            x = piece.max(0) @ t["wmax"][h // group] + piece.min(0) @ t["wmin"][h // group]
            gk.append(rotate(x + piece.mean(0) @ t["wmean"][h // group], s))
        qr = np.array([rotate(x, i) for i, x in enumerate(q)])
        kr = np.array([rotate(x, j) for j, x in enumerate(k)])
        dense = np.array([weights_of(qr[i], kr, np.arange(i + 1), scale(t)) for i in range(rows)])
        for r in range(sizes[2]):
            gates[b, h, r, : r + 1] = softmax(np.array(gk[: r + 1]) @ gq[r] / 2)
            worth = gates[b, h, r].copy()
            worth[r] = np.inf  # the own block is always seen
            chosen = best(worth, n["keep"], np.arange(sizes[3]) <= r)
            for i in range(r * block, min((r + 1) * block, rows)):
                keys = [j for j in range(i + 1) if chosen[j // block]]
                out[b, h, i] = row(qr[i], kr, v, keys, scale(t))
            for s, piece in enumerate(blocks_of(dense[r * block : (r + 1) * block].T, block)):
                target[b, h, r, s] = piece.max()
    return out, gates, target


@reference
def rectified_sparse(t, n, offset):
    out, block = empty(t), n["block"]
    for b, h, q, k, v in heads(t):
        qm, km, vm = (means(x, block) for x in (q, k, v))
        qs = means(np.abs(q - np.repeat(qm, block, 0)[: len(q)]), block)
        ks = means(np.abs(k - np.repeat(km, block, 0)[: len(k)]), block)
        for r in range(len(qm)):
            p = softmax(km @ qm[r] * scale(t))
            critical = best(p, n["keep"])
            critical[[0, *(s for s in range(len(km)) if abs(r - s) <= 1)]] = True
            doubt = np.abs(km @ qs[r]) + np.abs(ks @ qm[r])
            useful = ~critical & (np.abs(km @ qm[r]) > doubt)
            keys = [j for j in range(len(k)) if critical[j // block]]
            for i in range(r * block, min((r + 1) * block, len(q))):
                fine = row(q[i], k, v, keys, scale(t))
                out[b, h, i] = p[~useful].sum() * fine + p[useful] @ vm[useful]
    return out


@reference
def dynamic_mask(t, n, offset):
    out, (batch, count, rows, _) = empty(t), t["q"].shape
    group = count // t["k"].shape[1]
    opened = np.zeros((batch, t["k"].shape[1], rows, rows), bool)

    def turned(x, gain):
        normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * gain
        return np.array([rotate(one, p) for p, one in enumerate(normed)])

    for b, h, q, k, v in heads(t):
        g = h // group
        delta = t["a"][g] * np.log1p(np.exp(v @ t["w"][g]))
        s = turned(q, t["gq"]) @ turned(k, t["gk"]).T * scale(t) + delta
        for i in range(rows):
            opened[b, g, i] = best(delta, n["keep"], np.arange(rows) <= i)
            keys = np.flatnonzero(opened[b, g, i])
            out[b, h, i] = softmax(s[i, keys]) @ v[keys]
    return out, opened


@reference
def bilevel_routing(t, n, offset):
    out, (height, width) = empty(t), (n["height"], n["width"])
    side = n["side"]
    y, x = np.divmod(np.arange(height * width), width)
    place = y * side // height * side + x * side // width
    regions = [np.flatnonzero(place == r) for r in range(side * side)]
    affinity = np.zeros((len(out), side * side, side * side))
    for b, _, q, k, _ in heads(t):
        affinity[b] += (
            np.array([q[r].mean(0) for r in regions]) @ np.array([k[r].mean(0) for r in regions]).T
        )
    for b, h, q, k, v in heads(t):
        grid = np.pad(v.reshape(height, width, -1), ((2, 2), (3, 3), (0, 0)))
        local = sum(
            t["taps"][h, u, w] * grid[u : u + height, w : w + width]
            for u in range(5)
            for w in range(7)
        ).reshape(height * width, -1)
        for i in range(len(q)):
            routed = np.flatnonzero(best(affinity[b, place[i]], n["keep"]))
            keys = np.concatenate([regions[r] for r in routed])
            out[b, h, i] = row(q[i], k, v, keys, scale(t)) + local[i]
    return out


@reference
def token_pruning(t, n, offset):
    early, out = empty(t), empty(t)
    tokens = t["k"].shape[2]
    kept = np.zeros((len(out), tokens), bool)
    for b, h, q, k, v in heads(t):
        visible = np.arange(tokens) < t["length"][b]
        a = np.array([weights_of(one, k, np.flatnonzero(visible), scale(t)) for one in q])
        early[b, h] = a @ v
        kept[b] |= best(a.sum(0), n["keep"], visible)
    later = {"q": t["q2"], "k": t["k2"], "v": t["v2"]}
    for b, h, q, k, v in heads(later):
        for i in range(len(q)):
            out[b, h, i] = row(q[i], k, v, np.flatnonzero(kept[b]), scale(t))
    return out, early, kept
