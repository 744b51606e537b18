"""Operators that keep keys in caches, and tell and change what a map says."""

from __future__ import annotations

import numpy as np
from catalogue_formulas import heads, scale, softmax

from references import reference
from references.choice_family import empty, weights_of
from references.pipeline_family import best, row


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
    out, (batch, depth, _, tokens, _) = empty(t), t["ql"].shape
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


@reference
def namm(t, n, offset):
    out, size, hop, fade = empty(t), n["size"], n["hop"], n["fade"]
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(size) / size)
    spectrum = t["carried"].astype(float).copy()
    worths = np.zeros(spectrum.shape[:3])
    for f in range(0, t["seen"].shape[3] - size + 1, hop):
        found = np.abs(np.fft.rfft(window * t["seen"][..., f : f + size], axis=-1))
        spectrum = fade * spectrum + (1 - fade) * found
    for b, g in np.ndindex(spectrum.shape[:2]):
        q, k, v = (spectrum[b, g] @ t[name] for name in ("wq", "wk", "wv"))
        for j in range(len(q)):  # a token sees itself and those after it
            mixed = row(q[j], k, v, range(j, len(k)), 1 / np.sqrt(q.shape[1]))
            worths[b, g, j] = np.maximum(mixed @ t["w1"], 0) @ t["w2"]
    group = t["q"].shape[1] // t["k"].shape[1]
    for b, h, q, k, v in heads(t):
        for i in range(len(q)):
            keys = [j for j in range(i + 1) if worths[b, h // group, j] >= 0]
            out[b, h, i] = row(q[i], k, v, keys, scale(t))
    return out, spectrum, worths, worths >= 0


@reference
def cascade_pruning(t, n, offset):
    out, worths, fames = empty(t), t["worth"].astype(float), t["fame"].astype(float)
    worths, fames = worths.copy(), fames.copy()
    for b, h, q, k, v in heads(t):
        if not best(t["fame"][b], n["heads"])[h]:
            continue
        alive = best(t["worth"][b], n["tokens"])
        for i in range(len(q)):
            keys = np.array([j for j in range(i + 1) if alive[j]], int)
            a = weights_of(q[i], k, keys, scale(t))
            worths[b] += a
            out[b, h, i] = np.where(best(a, n["values"]), a, 0) @ v
        fames[b, h] += np.abs(out[b, h]).sum()
    return out, worths, fames


@reference
def slot_memory(t, n, offset):
    out = empty(t)
    turn, slot = t["turn"], t["slot"]
    fresh = np.zeros(slot.shape)

    def normed(x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)

    for b, h, q, k, v in heads(t):
        mk, mv = slot[b] @ t["mk"][h], slot[b] @ t["mv"][h]
        for i in range(len(q)):
            own = row(q[i], k, v, range(i + 1), scale(t))
            out[b, h, i] = own + row(own @ t["mq"][h], mk, mv, range(len(mk)), scale(t))
        tokens = range(max(min(t["length"][b], turn.shape[1]), 0))
        nk, nv = normed(turn[b]) @ t["wk"][h], normed(turn[b]) @ t["wv"][h]
        for s, one in enumerate(normed(slot[b]) @ t["wq"][h]):
            fresh[b, s] += row(one, nk, nv, tokens, scale(t)) @ t["out"][h]
    gate = np.tanh(t["bar"])[:, None]
    return out, (1 + gate) * fresh + (1 - gate) * slot


@reference
def attention_calibration(t, n, offset):
    out, (batch, count, rows, _) = empty(t), t["q"].shape
    sinks = np.zeros((batch, count, rows), bool)
    for b, h, q, k, v in heads(t):
        a = np.array([weights_of(q[i], k, np.arange(i + 1), scale(t)) for i in range(rows)])
        sinks[b, h] = a.sum(0) / (rows - np.arange(rows)) > n["limit"]
        sinks[b, h, 0] = False
        if t["tuned"][h]:
            sink = sinks[b, h]
            for one in a:
                freed = (1 - n["beta"]) * one[sink].sum()
                one[sink] *= n["beta"]
                one[~sink] += freed * one[~sink] / one[~sink].sum()
        out[b, h] = a @ v
    return out, sinks


@reference
def coverage_refined(t, n, offset):
    out, (height, width) = empty(t), (n["height"], n["width"])
    batch, count, rows, _ = t["q"].shape
    maps = np.zeros((batch, count, rows, height * width))
    for b, h, q, k, _ in heads(t):
        keys = np.flatnonzero(t["open"][b])
        maps[b, h] = [weights_of(one, k, keys, scale(t)) for one in q]
    taken = np.zeros(maps.shape)
    for b in range(batch):
        cover = np.concatenate([t["prior"][b], maps[b]]) * t["counts"][b][:, None]
        before = (np.cumsum(cover, 1) - cover).reshape(2 * count, rows, height, width)
        padded = np.pad(before, ((0, 0), (0, 0), (2, 2), (3, 3)))
        taps = np.concatenate([t["first"], t["second"]])
        hidden = t["bias"] + sum(
            np.einsum("miyx,mf->iyxf", padded[:, :, u : u + height, w : w + width], taps[:, u, w])
            for u in range(5)
            for w in range(7)
        )
        mixed = np.einsum("iyxf,fh->hiyx", np.maximum(hidden, 0), t["mix"])
        taken[b] = mixed.reshape(count, rows, -1)
    for b, h, q, k, v in heads(t):
        keys = np.flatnonzero(t["open"][b])
        for i in range(len(q)):
            if len(keys):
                s = k[keys] @ q[i] * scale(t) - taken[b, h, i, keys]
                out[b, h, i] = softmax(s) @ v[keys]
    return out


@reference
def streaming_rewrite(t, n, offset):
    x, taps = t["x"], t["taps"]
    padded = np.pad(x, ((0, 0), (len(taps) - 1, 0), (0, 0)))  # the ring begins with zeros
    return sum(padded[:, w : w + x.shape[1]] @ one for w, one in enumerate(taps))


@reference
def spec_transforms(t, n, offset):
    def rounded(x):
        step = np.abs(x).max() / 127
        return np.clip(np.round(x / step), -127, 127) * step

    x, before, after = (rounded(t[name]) for name in ("x", "B", "C"))
    out = np.zeros(x.shape)
    for b in range(len(x)):
        state = np.zeros(t["A"].shape)
        for i in range(x.shape[1]):
            dt = t["dt"][b, i]
            state = np.exp(dt[:, None] * t["A"]) * state + np.outer(dt * x[b, i], before[b, i])
            out[b, i] = state @ after[b, i] + t["D"] * x[b, i]
    return out


@reference
def accumulated_eviction(t, n, offset):
    out, (batch, count, rows, _) = empty(t), t["q"].shape
    group = count // t["k"].shape[1]
    for b, g in np.ndindex(batch, count // group):
        k, v = t["k"][b, g], t["v"][b, g]
        mass, alive = np.zeros(len(k)), np.ones(len(k), bool)
        for i in range(rows):
            seen = np.flatnonzero(alive[: i + 1])
            mass = n["alpha"] * mass
            for h in range(g * group, (g + 1) * group):
                a = weights_of(t["q"][b, h, i], k, seen, scale(t))
                out[b, h, i] = a @ v
                mass += a
            recent = i - np.arange(len(k)) < n["recent"]
            alive &= recent | best(mass, n["budget"], alive)
    return out
