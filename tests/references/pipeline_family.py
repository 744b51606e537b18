"""Operators of several stages: those that share their formulas with the tests of the language, and
those that choose."""

from __future__ import annotations

import math

import numpy as np
from catalogue_formulas import FORMULAS, heads, normed, scale, sigmoid, softmax

from references import REFERENCES, reference

SHARED = (
    "agent", "combiner", "hyper_attention", "squeeze_excite", "hyena", "outlook",
    "softmax_context_parallel", "channel_attention", "sink_redistribution", "flow_attention",
    "ahn", "ss2d",
)  # fmt: skip


def _of(name):
    return lambda t, n, offset: FORMULAS[name](t, n)


REFERENCES.update({name: _of(name) for name in SHARED})


def best(values, count, allowed=None):
    """True for the largest of the allowed, the first among equals."""
    allowed = np.ones(len(values), bool) if allowed is None else allowed
    order = [c for c in np.argsort(-np.asarray(values), kind="stable") if allowed[c]]
    chosen = np.zeros(len(values), bool)
    chosen[order[:count]] = True
    return chosen


def row(q, k, v, keys, factor):
    """softmax over these keys of one row."""
    keys = list(keys)
    if not keys:
        return np.zeros(v.shape[-1])
    return softmax(k[keys] @ q * factor) @ v[keys]


@reference
def nsa(t, n, offset):
    size, step, block = n["size"], n["step"], n["block"]
    q, k = t["q"], t["k"]
    batch, count, rows, _ = q.shape
    keys, group = k.shape[2], count // k.shape[1]
    blocks, pieces = -(-keys // block), max((keys - size) // step + 1, 0)
    out = np.zeros((batch, count, rows, t["v"].shape[-1]))
    for b, g in np.ndindex(batch, k.shape[1]):

        def pooled(x, w, b=b, g=g):
            spans = (x[b, g, c * step : c * step + size] for c in range(pieces))
            return np.array([np.einsum("rd,rda->a", s, w) for s in spans])

        kc, vc = pooled(k, t["wk"]), pooled(t["v"], t["wv"])
        for i in range(rows):
            weights = []
            seen = [c for c in range(pieces) if c * step + size - 1 <= i]
            mass = np.zeros(blocks)
            for h in range(g * group, (g + 1) * group):
                w = softmax(kc[seen] @ q[b, h, i] * scale(t)) if seen else np.zeros(0)
                weights.append(w)
                for c, one in zip(seen, w, strict=True):
                    # a compressed piece counts once for each of its steps within the block
                    for part in range(size // step):
                        where = (c + part) // (block // step)
                        if where < blocks:
                            mass[where] += one
            own = i // block
            allowed = np.arange(blocks) <= own
            mass[[s for s in range(blocks) if s == 0 or s >= own - 1]] = np.inf
            chosen = best(mass, n["keep"], allowed)
            for h, w in zip(range(g * group, (g + 1) * group), weights, strict=True):
                parts = [
                    w @ vc[seen] if seen else 0,
                    row(q[b, h, i], k[b, g], t["v"][b, g],
                        [j for j in range(keys) if j <= i and chosen[j // block]], scale(t)),
                    row(q[b, h, i], t["kw"][b, g], t["vw"][b, g],
                        [j for j in range(keys) if 0 <= i - j < n["recent"]], scale(t)),
                ]  # fmt: skip
                out[b, h, i] = sum(x * y for x, y in zip(t["gate"][b, h, i], parts, strict=True))
    return out


@reference
def routing_kmeans(t, n, offset):
    out = np.zeros((*t["q"].shape[:3], t["v"].shape[-1]))
    for b, h, q, k, v in heads(t):
        qn, kn, mu = normed(q), normed(k), t["mu"][h]
        rows = [best(qn @ m, n["width"]) for m in mu]
        cols = [best(kn @ m, n["width"]) for m in mu]
        for i in range(len(q)):
            found = [
                row(qn[i], kn, v, [j for j in range(i + 1) if c[j]], scale(t))
                for r, c in zip(rows, cols, strict=True)
                if r[i]
            ]
            out[b, h, i] = np.mean(found, 0) if found else 0
    return out


@reference
def sea(t, n, offset):
    wide = t["s0"].shape
    context = FORMULAS["performer"]({**t, "w": t["features"]}, n)
    z = np.maximum(np.einsum("bhie,hef->bhif", context, t["w1"]), 0)
    z = np.einsum("bhif,hfc->bhic", z, t["w2"])
    size, taps = z.shape[-1], t["taps"].shape[1]
    padded = np.pad(z, ((0, 0), (0, 0), (0, 0), (taps // 2, taps)))
    mixed = sum(t["taps"][None, :, u, None, None] * padded[..., u : u + size] for u in range(taps))
    kept = softmax(mixed).mean(1)
    out = np.zeros((*wide, t["v"].shape[-1]))
    for b, h, q, k, v in heads(t):
        for i in range(len(q)):
            chosen = best(kept[b, i], n["keep"])
            keys = [j for j in range(i + 1) if chosen[j * size // (i + 1)]]
            found = row(q[i], k, v, keys, scale(t)) * sigmoid(t["s0"][b, h, i])
            part = sigmoid(t["s1"][b, h, i])
            out[b, h, i] = part * found + (1 - part) * v[: i + 1].mean(0)
    return out


@reference
def index_reuse_topk(t, n, offset):
    out = np.zeros((*t["q"].shape[:3], t["v"].shape[-1]))
    group = t["q"].shape[1] // t["k"].shape[1]
    for b, h, q, k, v in heads(t):
        old = t["carried"][b, h // group]
        for i in range(len(q)):
            kept = [j for j in range(i + 1) if n["refresh"] or j >= len(old) or old[j]]
            out[b, h, i] = row(q[i], k, v, kept, scale(t))
    return out


@reference
def lte_window(t, n, offset):
    out = np.zeros((*t["q"].shape[:3], t["v"].shape[-1]))
    group = t["q"].shape[1] // t["k"].shape[1]
    for b, h, q, k, v in heads(t):
        g = h // group
        keep = np.zeros(len(k))
        for j in range(len(k)):
            hidden = sum(
                k[j + u - 3] @ t["wk"][g, u] + v[j + u - 3] @ t["wv"][g, u]
                for u in range(7)
                if 0 <= j + u - 3 < len(k)
            )
            keep[j] = (hidden * sigmoid(hidden)) @ t["w"][g]
        for i in range(len(q)):
            keys = [j for j in range(i + 1) if i - j <= n["size"] or j < n["sinks"] or keep[j] > 0]
            out[b, h, i] = row(q[i], k, v, keys, scale(t))
    return out


@reference
def fourier_positions(t, n, offset):
    phase = t["x"] @ t["wr"].T
    features = np.concatenate([np.cos(phase), np.sin(phase)], 1) / np.sqrt(2 * len(t["wr"]))
    hidden = features @ t["w1"]
    hidden = hidden * (1 + np.vectorize(math.erf)(hidden / np.sqrt(2))) / 2
    return t["tokens"] + hidden @ t["w2"]


@reference
def p_laplacian(t, n, offset):
    out = np.zeros((*t["q"].shape[:3], t["v"].shape[-1]))
    p, own = n["p"], 2 * n["mu"] / n["p"]
    for b, h, q, k, v in heads(t):
        for i in range(len(q)):
            a = softmax(k @ q[i] * scale(t))
            changed = a * (a * ((v[i] - v) ** 2).sum(1) + 1e-8) ** ((p - 2) / 2)
            out[b, h, i] = (changed @ v + own * v[i]) / (changed.sum() + own)
    return out


@reference
def eca(t, n, offset):
    means = np.pad(t["x"].mean(1), ((0, 0), (2, 2)))
    count = t["x"].shape[2]
    mixed = sum(t["taps"][u] * means[:, u : u + count] for u in range(5))
    return sigmoid(mixed)[:, None] * t["x"]


@reference
def spatial_gate(t, n, offset):
    x, taps, height, width = t["x"], t["taps"], n["height"], n["width"]
    maps = np.stack([x.mean(2), x.max(2)]).reshape(2, len(x), height, width)
    padded = np.pad(maps, ((0, 0), (0, 0), (2, 2), (2, 2)))
    logit = np.zeros((len(x), height, width))
    for m, u, w in np.ndindex(2, 5, 5):
        logit += taps[m, u, w] * padded[m, :, u : u + height, w : w + width]
    return sigmoid(logit).reshape(len(x), -1, 1) * x


@reference
def gem_pooling(t, n, offset):
    powers = np.maximum(t["x"], 1e-6) ** t["p"]
    return powers.mean(1) ** (1 / t["p"])


@reference
def learned_query_pooling(t, n, offset):
    q, k, v = t["q"], t["k"], t["v"]
    out = np.zeros((len(k), *q.shape[:2], v.shape[-1]))
    group = q.shape[0] // k.shape[1]
    for b, h, r in np.ndindex(out.shape[:3]):
        keys = range(min(max(t["length"][b], 0), k.shape[2]))
        factor = 1 / np.sqrt(q.shape[-1])
        out[b, h, r] = row(q[h, r], k[b, h // group], v[b, h // group], keys, factor)
    return out


@reference
def additive_pooling(t, n, offset):
    v, u = t["v"], t["u"]
    out = np.zeros((len(v), len(u), v.shape[-1]))
    for b in range(len(v)):
        hidden = np.tanh(v[b] @ t["w"] + t["c"])
        keys = range(min(max(t["length"][b], 0), v.shape[1]))
        for r in range(len(u)):
            out[b, r] = row(u[r], hidden, v[b], keys, 1.0)
    return out


@reference
def block_topk(t, n, offset):
    block = n["block"]
    q, k, v = t["q"], t["k"], t["v"]
    group = q.shape[1] // k.shape[1]
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, g, i in np.ndindex(len(q), k.shape[1], q.shape[2]):
        means = np.array([x.mean(0) for x in np.split(k[b, g], range(block, k.shape[2], block))])
        own, heads_of = i // block, range(g * group, (g + 1) * group)
        worth = np.full(len(means), np.inf)
        if own:
            past = [softmax(means[:own] @ q[b, h, i] * scale(t)) for h in heads_of]
            worth[:own] = np.sum(past, 0)
        chosen = best(worth, n["keep"], np.arange(len(means)) <= own)
        for h in heads_of:
            keys = [j for j in range(i + 1) if chosen[j // block]]
            found = row(q[b, h, i], k[b, g], v[b, g], keys, scale(t))
            out[b, h, i] = sigmoid(t["gate"][b, h, i]) * found
    return out


@reference
def retrieval_merge(t, n, offset):
    out = np.zeros((*t["q"].shape[:3], t["v"].shape[-1]))
    for b, h, q, k, v in heads(t):
        for i in range(len(q)):
            near = {j for j in range(i + 1) if i - j < n["size"] or j < n["sinks"]}
            more = {j for j in range(i + 1) if t["found"][b, h, i, j]}
            out[b, h, i] = row(q[i], k, v, sorted(near | more), scale(t))
    return out


@reference
def masked_kv_sharing(t, n, offset):
    out = np.zeros((*t["q"].shape[:3], t["v"].shape[-1]))
    for b, h, q, k, v in heads(t):
        hot, text, share = t["heat"][b] >= n["threshold"], t["text"][b], t["share"][b]
        for i in range(len(q)):
            fore = row(q[i], k, v, np.flatnonzero(text | hot), scale(t))
            back = row(q[i], k, v, np.flatnonzero(text | ~hot), scale(t))
            out[b, h, i] = share[i] * fore + (1 - share[i]) * back
    return out
