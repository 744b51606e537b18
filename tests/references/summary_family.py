"""Summaries: keys and values pooled, clustered, or held in a few slots."""

from __future__ import annotations

import math

import numpy as np
from catalogue_formulas import heads, scale, sigmoid

from references import reference, rotate, softmax


def layernorm(x):
    middle = x - x.mean(-1, keepdims=True)
    return middle / np.sqrt((middle**2).mean(-1, keepdims=True) + 1e-5)


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(np.asarray(x, float) / math.sqrt(2))) / 2


def attend(q, k, v, factor):
    """softmax over these keys for each of these rows."""
    if not len(k):
        return np.zeros((len(q), v.shape[-1]))
    return np.array([softmax(k @ row * factor) @ v for row in q])


def empty(t):
    return np.zeros((*t["q"].shape[:3], t["v"].shape[-1]))


def segments(n, count):
    """Where the segments of n points begin and end: the first ones are one shorter."""
    size, rest = divmod(n, count)
    ends = np.cumsum([size] * (count - rest) + [size + 1] * rest)
    return [slice(end - own, end) for end, own in zip(
        ends, [size] * (count - rest) + [size + 1] * rest, strict=True)]  # fmt: skip


def means(x, count):
    return np.array([x[s].mean(0) if s.stop > s.start else 0 * x[:1].sum(0)
                     for s in segments(len(x), count)])  # fmt: skip


@reference
def lara(t, n, offset):
    out, count, factor = empty(t), n["marks"], scale(t)
    for b, h, q, k, v in heads(t):
        mu = means(q, count) + means(k, count)
        w = mu + (t["noise"][b, h] if "noise" in t else 0)

        def lp(x, y):
            return (y @ x - x @ x / 2) * factor

        logits = np.array([[lp(x, y) for x in k] for y in w])
        total = np.log(np.exp(logits).sum(1))
        kv = np.exp(logits - total[:, None]) @ v
        for i, x in enumerate(q):
            r = [
                factor * mu[c] @ x + lp(x, w[c]) + total[c] - lp(mu[c], w[c]) for c in range(count)
            ]
            out[b, h, i] = softmax(np.array(r)) @ kv
    return out


@reference
def core_context(t, n, offset):
    out, size, factor = empty(t), n["size"], scale(t)
    for b, h, q, k, v in heads(t):
        g = h // (t["q"].shape[1] // t["k"].shape[1])
        for i in range(len(q)):
            groups = max(i + 1 - n["recent"], 0) // size
            core = np.zeros((groups, t["x"].shape[-1]))
            for m in range(groups):
                own = slice(m * size, (m + 1) * size)
                core[m] = softmax(k[own] @ q[(m + 1) * size - 1] * factor) @ t["x"][b, own]
            near = slice(groups * size, i + 1)
            keys = np.concatenate([core @ t["wk"][g], k[near]])
            values = np.concatenate([core @ t["wv"][g], v[near]])
            out[b, h, i] = attend(q[i : i + 1], keys, values, factor)[0]
    return out


@reference
def pooled_kv(t, n, offset):
    out, step = empty(t), n["step"]
    rows, columns = n["height"] // step, n["width"] // step
    for b, h, q, k, v in heads(t):
        image = t["image"][b].reshape(n["height"], n["width"], -1)
        made = np.zeros((rows, columns, image.shape[-1]))
        for r, s in np.ndindex(rows, columns):
            patch = image[r * step : (r + 1) * step, s * step : (s + 1) * step]
            made[r, s] = np.einsum("uwc,uwca->a", patch, t["taps"]) + t["shift"]
        made = (layernorm(made) * t["gain"] + t["bias"]).reshape(rows * columns, -1)
        keys = np.concatenate([made @ t["wk"][h], k])
        values = np.concatenate([made @ t["wv"][h], v])
        out[b, h] = attend(q, keys, values, scale(t))
    return out


@reference
def codebook_logcount(t, n, offset):
    q, near, code = t["q"], t["near"], t["code"]
    out = np.zeros((*q.shape[:3], t["gv"].shape[-1]))
    local = np.zeros((*q.shape[:3], t["wv"].shape[-1]))
    count = np.bincount(t["place"], minlength=len(code))
    used, factor = np.flatnonzero(count), 1 / np.sqrt(q.shape[-1])
    for b, h, i in np.ndindex(q.shape[:3]):
        tokens = near[b, i]
        mixed = attend(tokens @ t["wq"][h], tokens @ t["wk"][h], tokens @ t["wv"][h], factor)
        both = np.concatenate([t["own"][h], t["other"][h]])
        beta = softmax(np.array([both @ np.concatenate([mixed[0], each]) for each in mixed[1:]]))
        local[b, h, i] = mixed[0] + beta @ mixed[1:]
        weights = softmax(code[used] @ t["gk"][h] @ q[b, h, i] * factor + np.log(count[used]))
        out[b, h, i] = weights @ (code[used] @ t["gv"][h])
    return out, local


@reference
def vq_attention(t, n, offset):
    """The dense form: every key is its code, all but near ones without a bias."""
    out, size = empty(t), n["size"]
    for b, h, q, k, v in heads(t):
        code = t["code"][h // (t["q"].shape[1] // t["k"].shape[1])]
        kq = np.array([code[((x - code) ** 2).sum(1).argmin()] for x in k])
        for i in range(len(q)):
            near = np.arange(i + 1) // size >= i // size - 1
            bias = t["bias"][h, np.minimum(i - np.arange(i + 1), 2 * size - 1)]
            weights = softmax(kq[: i + 1] @ q[i] * scale(t) + np.where(near, bias, 0))
            out[b, h, i] = weights @ v[: i + 1]
    return out


@reference
def nystromformer(t, n, offset):
    out, count = empty(t), n["marks"]
    for b, h, q, k, v in heads(t):
        held = np.arange(len(k)) < t["length"][b]
        k, v = k * held[:, None], v * held[:, None]
        qm, km = means(q, count), means(k, count)
        a = attend(qm, km, np.eye(count), scale(t))
        z = a.T / (a.sum(1).max() * a.sum(0).max())
        one = np.eye(count)
        for _ in range(n["rounds"]):
            y = a @ z
            z = z @ (13 * one - y @ (15 * one - y @ (7 * one - y))) / 4
        gathered = attend(qm, k[held], v[held], scale(t))
        taps = t["taps"][h]
        padded = np.pad(v, ((len(taps) // 2, len(taps)), (0, 0)))
        near = sum(w * padded[u : u + len(q)] for u, w in enumerate(taps))
        out[b, h] = attend(q, km, z @ gathered, scale(t)) + near
    return out


@reference
def abc(t, n, offset):
    out = empty(t)
    for b, h, q, k, v in heads(t):
        s = t["s"][b, h]
        for i in range(len(q)):
            enter = np.array([softmax(s[: i + 1, slot]) for slot in range(s.shape[1])])
            out[b, h, i] = attend(q[i : i + 1], enter @ k[: i + 1], enter @ v[: i + 1], scale(t))[0]
    return out


@reference
def long_short(t, n, offset):
    out, size = empty(t), n["size"]
    for b, h, q, k, v in heads(t):
        g = h // (t["q"].shape[1] // t["k"].shape[1])
        length = min(max(t["length"][b], 0), len(k))
        if not length:
            continue
        k, v = k[:length], v[:length]
        mix = np.array([softmax(column) for column in t["p"][b, g, :length].T])
        kr = layernorm(mix @ k) * t["gs"][g] + t["bs"][g]
        vr = layernorm(mix @ v) * t["hs"][g] + t["cs"][g]
        near = layernorm(k) * t["gl"][g] + t["bl"][g]
        for i in range(len(q)):
            first = i // size * size - size // 2
            own = slice(max(first, 0), max(first + size + 2 * (size // 2), 0))
            keys, values = np.concatenate([kr, near[own]]), np.concatenate([vr, v[own]])
            out[b, h, i] = attend(q[i : i + 1], keys, values, scale(t))[0]
    return out


@reference
def perceiver_resampler(t, n, offset):
    out = np.zeros((len(t["x"]), *t["latent"].shape))
    for b in range(len(t["x"])):
        x = layernorm(t["x"][b]) * t["gx"] + t["bx"]
        latent = layernorm(t["latent"]) * t["gl"] + t["bl"]
        keys = np.concatenate([x[: max(t["length"][b], 0)], latent])
        y = t["latent"].copy()
        for h in range(len(t["wq"])):
            factor = 1 / np.sqrt(t["wq"].shape[-1])
            found = attend(latent @ t["wq"][h], keys @ t["wk"][h], keys @ t["wv"][h], factor)
            y += found @ t["wo"][h]
        out[b] = y + gelu((layernorm(y) * t["gf"] + t["bf"]) @ t["w1"]) @ t["w2"]
    return out


@reference
def head_tokens(t, n, offset):
    x = t["x"]
    batch, count, slices, width = x.shape
    out = np.zeros((batch, len(t["wq"]), count, t["wv"].shape[-1]))
    for b in range(batch):
        made = np.einsum("mf,sfa->msa", x[b].mean(0), t["w"]) + t["shift"]
        made = gelu(layernorm(made) * t["gain"] + t["bias"]) + t["pos"]
        every = np.concatenate([x[b], made]).reshape(count + slices, -1)
        for h in range(out.shape[1]):
            q, k, v = (every @ t[w][h].reshape(slices * width, -1) for w in ("wq", "wk", "wv"))
            found = attend(q, k, v, 1 / np.sqrt(q.shape[-1]))
            out[b, h] = found[:count]
            out[b, h, 0] += found[count:].mean(0)
    return out


@reference
def hierarchical(t, n, offset):
    out, size = empty(t), n["size"]
    for b, h, q, k, v in heads(t):
        length, starts = t["length"][b], range(0, len(q), size)
        for s in starts:
            own = slice(s, min(s + size, max(length, 0)))
            out[b, h, s : s + size] = attend(q[s : s + size], k[own], v[own], scale(t))
        top = out[b, h, ::size] + t["place"]
        seen = top[[s < length for s in starts]]
        factor = scale(t)
        made = attend(top @ t["wq"][h], seen @ t["wk"][h], seen @ t["wv"][h], factor)
        out[b, h, ::size] = made
    return out


@reference
def recurrent_window(t, n, offset):
    x, size = t["x"], n["size"]
    out = np.zeros_like(x)

    def norm(y):
        return layernorm(y) * t["gain"] + t["bias"]

    def gated(y, a, g):
        return (y @ t[a]) * sigmoid(y @ t[g])

    factor = 1 / np.sqrt(t["wq"].shape[-1])
    for b in range(len(x)):
        cell, cells = t["first"], []
        own = gated(x[b], "a1", "g1")
        for r in range(n["windows"]):
            window = np.zeros((size, x.shape[-1]))
            part = x[b, r * size : (r + 1) * size]
            window[: len(part)] = part
            seen, mixed = norm(np.concatenate([cell[None], window])), 0
            for h in range(len(t["wq"])):
                q, k = (np.array([rotate(y, u) for u, y in enumerate(seen @ t[w][h])])
                        for w in ("wq", "wk"))  # fmt: skip
                mixed = mixed + attend(q, k, seen @ t["wv"][h], factor) @ t["wo"][h]
            own[r * size : (r + 1) * size] += mixed[1 : 1 + len(part)]
            cell = norm(mixed[0] + gated(cell, "a1", "g1"))
            cells.append(cell)
        cells = np.array(cells)
        out[b] = gated(own, "a2", "g2")
        for h in range(len(t["rq"])):
            found = attend(own @ t["rq"][h], cells @ t["rk"][h], cells @ t["rv"][h], factor)
            out[b] += found @ t["ro"][h]
    return out


@reference
def lowrank_pooling(t, n, offset):
    v = t["v"]
    out = np.zeros((len(v), t["p"].shape[1], v.shape[-1]))
    for b in range(len(v)):
        x = v[b, : max(t["length"][b], 0)]
        if not len(x):
            continue
        products = np.tanh(x @ t["u"]) * np.tanh(x.mean(0) @ t["w"])
        out[b] = np.array([softmax(row) for row in (products @ t["p"]).T]) @ x
    return out


@reference
def aggregated(t, n, offset):
    out, reach, step = empty(t), n["reach"], n["step"]
    height, width = n["height"], n["width"]
    rows, columns = height // step, width // step
    for b, h, q, k, v in heads(t):
        mapped = gelu(t["image"][b] @ t["reduce"]).reshape(height, width, -1)[
            : rows * step, : columns * step
        ]
        mapped = (
            mapped.reshape(rows, step, columns, step, -1).mean((1, 3)).reshape(rows * columns, -1)
        )
        mapped = layernorm(mapped) * t["gain"] + t["shift"]
        kp, vp = mapped @ t["wk"][h], mapped @ t["wv"][h]
        kp = kp / np.linalg.norm(kp, axis=1, keepdims=True)
        for i in range(len(q)):
            y, x = divmod(i, width)
            qn = q[i] / np.linalg.norm(q[i])
            box = np.ndindex(2 * reach + 1, 2 * reach + 1)
            near = [(y + a - reach, x + c - reach) for a, c in box]
            near = [(r, s) for r, s in near if 0 <= r < height and 0 <= s < width]
            qs = (qn + t["qe"][h]) * np.log1p(np.exp(t["tau"][h])) * np.log(len(near) + len(kp))
            places = [(r - y + reach, s - x + reach) for r, s in near]
            keys = [r * width + s for r, s in near]
            logit = [qs @ k[j] / np.linalg.norm(k[j]) + t["near"][h][at]
                     for j, at in zip(keys, places, strict=True)]  # fmt: skip
            weights = softmax(np.concatenate([logit, kp @ qs + t["far"][h, i]]))
            learned = [qn @ t["token"][h][at] + t["edge"][h][at] for at in places]
            out[b, h, i] = (weights[: len(keys)] + learned) @ v[keys] + weights[len(keys) :] @ vp
    return out


@reference
def mixencoder(t, n, offset):
    q, k, v = t["q"], t["k"], t["v"]
    out = np.zeros((*q.shape[:4], v.shape[-1]))
    text = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, h, c in np.ndindex(q.shape[:3]):
        keys, values = (x[b, h, : max(t["length"][b], 0)] for x in (k, v))
        text[b, h, c] = attend(t["pool"][b, h, c][None], keys, values, scale(t))[0]
        every = np.concatenate([keys, t["ke"][b, h, c]])
        out[b, h, c] = attend(
            q[b, h, c], every, np.concatenate([values, t["ve"][b, h, c]]), scale(t)
        )
    return out, text


def each(t, tokens, kind, h, *names):
    """Every token with the tensors of its kind."""
    return zip(tokens, *(t[name][h, kind] for name in names), strict=True)


@reference
def modality_untied(t, n, offset):
    x, out = t["x"], np.zeros_like(t["x"])

    def root_norm(y):
        return y / np.sqrt((y**2).mean() + 1e-6)

    for b, h in np.ndindex(len(x), len(t["wq"])):
        kind, image = t["kind"][b], t["image"][b]
        q = np.array([root_norm(y @ w) * g for y, w, g in each(t, x[b], kind, h, "wq", "gq")])
        k = np.array([root_norm(y @ w) * g for y, w, g in each(t, x[b], kind, h, "wk", "gk")])
        v = np.array([y @ w for y, w in each(t, x[b], kind, h, "wv")])
        for i in range(len(q)):
            seen = [j for j in range(len(q)) if j <= i or image[i] == image[j] >= 0]
            found = attend(q[i : i + 1], k[seen], v[seen], 1 / np.sqrt(q.shape[1]))[0]
            out[b, i] += found @ t["wo"][h, kind[i]]
    return out


@reference
def patch_heads(t, n, offset):
    frames, height, width = n["frames"], n["height"], n["width"]
    batch, _, _, depth = t["q"].shape
    out = np.zeros((batch, frames * height * width, 2, depth))
    for b, half in np.ndindex(batch, 2):
        r, s = ((n["rows"], n["columns"]), (n["tall"], n["wide"]))[half]
        down, across = height // r, width // s

        def patches(x, r=r, s=s, down=down, across=across):
            x = x.reshape(frames, down, r, across, s, -1).transpose(0, 1, 3, 2, 4, 5)
            return x.reshape(frames * down * across, -1)

        q, k, v = (patches(t[name][b, half]) for name in "qkv")
        seen = patches(t["hole"][b].astype(float)).mean(1) <= 0.5
        found = attend(q, k[seen], v[seen], 1 / np.sqrt(q.shape[1]))
        found = found.reshape(frames, down, across, r, s, depth).transpose(0, 1, 3, 2, 4, 5)
        out[b, :, half] = found.reshape(-1, depth)
    return out


@reference
def geometry_bias(t, n, offset):
    q, k, v, table = t["q"], t["k"], t["v"], t["table"]
    out = t["feature"].copy()
    batch, count, kinds, rows, _ = q.shape
    for b, h, r, i in np.ndindex(batch, count, kinds, rows):
        kept = np.sort(np.argsort(-t["worth"][b, r], kind="stable")[: n["keep"]])
        logit = []
        for j in kept:
            y = (t["ky"][b, r, j] - t["qy"][b, i]) / n["step"] + (table.shape[1] - 1) / 2
            x = (t["kx"][b, r, j] - t["qx"][b, i]) / n["step"] + (table.shape[2] - 1) / 2
            logit.append(q[b, h, r, i] @ k[b, h, r, j] * scale(t) + between(table[h], y, x))
        out[b, h, i] += softmax(np.array(logit)) @ v[b, h, r, kept]
    return out


def between(table, y, x):
    """A read of a map between its points; 0 outside."""
    top, left, found = math.floor(y), math.floor(x), 0.0
    for a, c in np.ndindex(2, 2):
        if 0 <= top + a < table.shape[0] and 0 <= left + c < table.shape[1]:
            found += (1 - abs(y - top - a)) * (1 - abs(x - left - c)) * table[top + a, left + c]
    return found
