"""Operators that choose rows and keys, keep them in caches, and tell what a map says."""

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
