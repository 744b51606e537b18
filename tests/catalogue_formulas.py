"""Formulas of the catalogue's operators, written from its equations in plain NumPy, row by row.

They share nothing with the specs but the names of the inputs. `FORMULAS[name](x, n)` gives the
result of operator `name` for the tensors x and the numbers n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]
Numbers = dict[str, Any]
Formula = Callable[[Tensors, Numbers], np.ndarray]
FORMULAS: dict[str, Formula] = {}


def formula(function: Formula) -> Formula:
    FORMULAS[function.__name__] = function
    return function


def softmax(scores, axis=-1):
    scores = np.asarray(scores, dtype=float)
    weights = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return weights / weights.sum(axis=axis, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def normed(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def heads(x):
    """Each batch entry and query head with its q, k, v."""
    q, k, v = x["q"], x["k"], x["v"]
    group = q.shape[1] // k.shape[1]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            yield b, h, q[b, h], k[b, h // group], v[b, h // group]


def rows(x, weights_of, visible=lambda i, j: j <= i):
    """out[b, h, i] = sum of weights_of(b, h, i, keys, q, k) * v over visible keys."""
    q, v = x["q"], x["v"]
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, h, qs, ks, vs in heads(x):
        for i in range(len(qs)):
            keys = [j for j in range(len(ks)) if visible(i, j)]
            if keys:
                out[b, h, i] = np.asarray(weights_of(b, h, i, keys, qs, ks)) @ vs[keys]
    return out


def scale(x):
    return 1 / math.sqrt(x["q"].shape[-1])


def plain_softmax(x, visible=lambda i, j: j <= i, extra=lambda b, h, i, j: 0.0):
    def weights(b, h, i, keys, q, k):
        return softmax([q[i] @ k[j] * scale(x) + extra(b, h, i, j) for j in keys])

    return rows(x, weights, visible)


# --- softmax, positional, masks ------------------------------------------------------------------


@formula
def causal_softmax(x, n):
    return plain_softmax(x)


@formula
def rope(x, n):
    def rotated(vector, position):
        half = len(vector) // 2
        out = np.empty_like(vector)
        for c in range(half):
            angle = position * 10000.0 ** (-c / half)
            a, b = vector[c], vector[c + half]
            out[c] = a * math.cos(angle) - b * math.sin(angle)
            out[c + half] = b * math.cos(angle) + a * math.sin(angle)
        return out

    def weights(b, h, i, keys, q, k):
        return softmax([rotated(q[i], i) @ rotated(k[j], j) * scale(x) for j in keys])

    return rows(x, weights)


@formula
def additive_feedback(x, n):
    q, v = x["q"], x["v"]
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, h, qs, ks, vs in heads(x):
        used = np.zeros(len(ks))
        for i in range(len(qs)):
            e = [
                x["w"][h] @ np.tanh(qs[i] + ks[j] + x["back"][h] * used[j]) for j in range(len(ks))
            ]
            alpha = softmax(e)
            out[b, h, i] = alpha @ vs
            used += 0.5 * alpha * sigmoid(x["fertility"][b, h])
    return out


@formula
def memory_slots(x, n):
    out = np.zeros((*x["q"].shape[:3], x["v"].shape[-1]))
    for b, h, q, k, v in heads(x):
        for i in range(len(q)):
            keys = np.concatenate([k[: i + 1], x["mk"][h]])
            values = np.concatenate([v[: i + 1], x["mv"][h]])
            out[b, h, i] = softmax(keys @ q[i] * scale(x)) @ values
    return out


@formula
def tensor_attention(x, n):
    out = np.zeros((*x["q"].shape[:3], x["v"].shape[-1]))
    group = x["q"].shape[1] // x["k"].shape[1]
    for b, h, q, k, v in heads(x):
        k2, v2 = x["k2"][b, h // group], x["v2"][b, h // group]
        for i in range(len(q)):
            s = np.einsum("c,jc,lc->jl", q[i], k[: i + 1], k2[: i + 1]) * scale(x)
            p = softmax(s.reshape(-1)).reshape(s.shape)
            out[b, h, i] = np.einsum("jl,je,le->e", p, v[: i + 1], v2[: i + 1])
    return out


@formula
def document_mask(x, n):
    doc, sink, cap = x["doc"], x["sink"], n["cap"]
    out = np.zeros((*x["q"].shape[:3], x["v"].shape[-1]))
    for b, h, q, k, v in heads(x):
        for i in range(len(q)):
            keys = [j for j in range(i + 1) if doc[b, i] == doc[b, j] and i - j < n["size"]]
            s = [cap * math.tanh(q[i] @ k[j] * scale(x) / cap) for j in keys]
            out[b, h, i] = softmax([*s, sink[h]])[:-1] @ v[keys]
    return out


@formula
def aaren(x, n):
    k, v = x["k"], x["v"]
    q = np.broadcast_to(
        x["q"][None, :, None], (k.shape[0], x["q"].shape[0], k.shape[2], k.shape[3])
    )
    return plain_softmax({"q": q, "k": k, "v": v})


@formula
def sink_window(x, n):
    return plain_softmax(x, lambda i, j: j <= i and (i - j < n["size"] or j < n["sinks"]))


@formula
def transformer_xl(x, n):  # rows stand at offset n["offset"]
    off = n["offset"]

    def weights(b, h, i, keys, q, k):
        r, u, w = x["r"][h], x["u"][h], x["w"][h]
        s = [(q[i] + u) @ k[j] + (q[i] + w) @ r[i + off - j] for j in keys]
        return softmax(np.array(s) * scale(x))

    return rows(x, weights, lambda i, j: j <= i + off)


@formula
def mvpa(x, n):
    times, channels = n["times"], n["channels"]

    def score(b, h, i, j, q, k):
        ti, ci, tj, cj = i // channels, i % channels, j // channels, j % channels
        content = (q[i] + x["u"][h]) @ k[j] * (ti - tj <= 10 or ti == times - 1)
        s = content + (q[i] + x["w"][h]) @ x["rt"][h][ti - tj]
        return (s + (q[i] + x["z"][h]) @ x["rc"][h][abs(ci - cj)]) * scale(x)

    def weights(b, h, i, keys, q, k):
        return softmax([score(b, h, i, j, q, k) for j in keys])

    return rows(x, weights, lambda i, j: j // channels <= i // channels)


@formula
def gaussian_local(x, n):
    reach = n["D"]
    out = np.zeros((*x["q"].shape[:3], x["v"].shape[-1]))
    for b, h, q, k, v in heads(x):
        for i in range(len(q)):
            centre = x["p"][b, h, i]
            keys = [j for j in range(len(k)) if abs(j - centre) <= reach]
            if keys:
                gauss = np.exp(-((np.array(keys) - centre) ** 2) / (2 * (reach / 2) ** 2))
                out[b, h, i] = softmax(k[keys] @ q[i] * scale(x)) * gauss @ v[keys]
    return out


def neighbours(i, length, size, dilation, stride):
    """The keys of one axis, from the catalogue's start and end."""
    residue, place = i % dilation, i // dilation
    count = len(range(residue, length, dilation))
    lead = min(place // stride * stride + stride // 2, count - 1)
    right = size // 2 + size % 2 - 1
    start = max(lead - size // 2, 0)
    if lead + right >= count:
        start += count - right - lead - 1
    return {residue + dilation * p for p in range(start, start + size)}


def past_neighbours(i, length, size):
    return set(range(max(i - size + 1, 0), i + 1))


@formula
def neighborhood(x, n):
    frames, height, width = n["frames"], n["height"], n["width"]
    size, dilation, stride = n["size"], n["dilation"], n["stride"]
    middle = size * dilation - 1

    def place(i):
        return i // (height * width), i // width % height, i % width

    def visible(i, j):
        (ti, yi, xi), (tj, yj, xj) = place(i), place(j)
        return (
            tj in past_neighbours(ti, frames, size)
            and yj in neighbours(yi, height, size, dilation, stride)
            and xj in neighbours(xi, width, size, dilation, stride)
        )

    def bias(b, h, i, j):
        (_, yi, xi), (_, yj, xj) = place(i), place(j)
        return x["bias"][h, yi - yj + middle, xi - xj + middle]

    return plain_softmax(x, visible, bias)


@formula
def shifted_window(x, n):
    height, width, size, shift = n["height"], n["width"], n["size"], n["shift"]

    def same(a, b, length):
        window = (a + length - shift) % length // size == (b + length - shift) % length // size
        return window and (a < shift) == (b < shift)

    def visible(i, j):
        return same(i // width, j // width, height) and same(i % width, j % width, width)

    def bias(b, h, i, j):
        dy, dx = i // width - j // width, i % width - j % width
        return x["bias"][h, dy + size - 1, dx + size - 1]

    return plain_softmax(x, visible, bias)


@formula
def halo(x, n):
    height, width, block, reach = n["height"], n["width"], n["block"], n["reach"]
    side = block + 2 * reach
    low = 1 - block - reach
    out = np.zeros((*x["q"].shape[:3], x["v"].shape[-1]))
    for b, h, q, k, v in heads(x):
        for i in range(len(q)):
            yi, xi = i // width, i % width
            scores, values = [], []
            for u in range(side):
                for w in range(side):
                    y, z = yi // block * block - reach + u, xi // block * block - reach + w
                    there = 0 <= y < height and 0 <= z < width
                    key = k[y * width + z] if there else np.zeros(k.shape[-1])
                    values.append(v[y * width + z] if there else np.zeros(v.shape[-1]))
                    relative = x["row"][y - yi - low] + x["col"][z - xi - low]
                    scores.append(q[i] @ key * scale(x) + q[i] @ relative)
            out[b, h, i] = softmax(scores) @ np.array(values)
    return out


@formula
def segment_relation(x, n):
    kind, allowed = x["kind"], x["allowed"]
    out = np.zeros((*x["q"].shape[:3], x["v"].shape[-1]))
    for b, h, q, k, v in heads(x):
        for i in range(len(q)):
            keys = [j for j in range(len(k)) if allowed[kind[b, i], kind[b, j]]]
            if keys:
                out[b, h, i] = softmax(k[keys] @ q[i] * scale(x)) @ v[keys]
    return out


@formula
def duo_heads(x, n):
    group = x["q"].shape[1] // x["k"].shape[1]
    full = plain_softmax(x)
    window = plain_softmax(x, lambda i, j: j <= i and (j < n["sinks"] or i - j < n["recent"]))
    return np.where(np.repeat(x["retrieval"], group)[None, :, None, None], full, window)


@formula
def mixture_of_heads(x, n):
    shared, keep = n["shared"], n["keep"]
    each = plain_softmax(x)
    count = each.shape[1]
    out = np.zeros((*each.shape[::2][:2], x["wo"].shape[-1]))
    for b in range(each.shape[0]):
        for i in range(each.shape[2]):
            two = 2 * softmax(x["mix"][b, i])
            gate = np.zeros(count)
            gate[:shared] = two[0] * softmax(x["ws"][b, :shared, i]) * shared
            order = sorted(range(shared, count), key=lambda h: -x["wr"][b, h, i])[:keep]
            weights = np.exp(x["wr"][b, order, i])
            gate[order] = two[1] * weights / weights.sum() * keep
            out[b, i] = sum(gate[h] * each[b, h, i] @ x["wo"][h] for h in range(count))
    return out


# --- normalizers ---------------------------------------------------------------------------------


@formula
def sinkhorn(x, n):
    out = np.zeros((*x["q"].shape[:3], x["v"].shape[-1]))
    for b, h, q, k, v in heads(x):
        length = x["length"][b]
        plan = np.exp(q[:length] @ k[:length].T * scale(x))
        plan /= plan.sum(1, keepdims=True)
        for _ in range(2):
            plan /= plan.sum(0, keepdims=True)
            plan /= plan.sum(1, keepdims=True)
        out[b, h, :length] = plan @ v[:length]
    return out


@formula
def sparsemax(x, n):
    def weights(b, h, i, keys, q, k):
        s = k[keys] @ q[i] * scale(x)
        ordered = np.sort(s)[::-1]
        sums = np.cumsum(ordered)
        support = max(c for c in range(1, len(s) + 1) if 1 + c * ordered[c - 1] > sums[c - 1])
        return relu(s - (sums[support - 1] - 1) / support)

    return rows(x, weights)


@formula
def landmark(x, n):
    size = n["size"]

    def weights(b, h, i, keys, q, k):
        own = i // size
        s = {j: q[i] @ k[j] * scale(x) for j in keys}
        marks = {c: c * size + size - 1 for c in range(own)}
        group = [j for j in keys if j // size == own and j % size != size - 1]
        group += list(marks.values())
        p = dict(zip(group, softmax([s[j] for j in group]), strict=True)) if group else {}
        result = dict.fromkeys(keys, 0.0)
        for j in keys:
            if j // size == own and j % size != size - 1:
                result[j] = p[j]
        for c, mark in marks.items():
            inside = [j for j in range(c * size, mark)]
            for j, inner in zip(inside, softmax([s[j] for j in inside]), strict=True):
                result[j] = p[mark] * inner
        return [result[j] for j in keys]

    return rows(x, weights)


@formula
def softplus_reweighted(x, n):
    def weights(b, h, i, keys, q, k):
        s = math.log(q.shape[-1]) * math.log(len(keys)) * normed(k[keys]) @ normed(q[i])
        a = np.log1p(np.exp(s))
        a /= a.sum()
        kept = relu(len(keys) * a - (0 if i < 3 else 1)) ** n["power"]
        return kept / kept.sum() if kept.sum() else kept

    return rows(x, weights)


@formula
def sink_redistribution(x, n):
    keep = n["keep"]

    def weights(b, h, i, keys, q, k):
        a = softmax(k[keys] @ q[i] * scale(x))
        image, sink = x["image"][b, keys], x["sink"][b, keys]
        seen, free = a[image].sum(), a[image & ~sink].sum()
        if seen < 0.2 or seen - free > 0.5 * seen or free <= 0:
            return a
        moved = (1 - keep) * a[sink].sum()
        edited = np.where(sink, keep * a, a)
        return np.where(image & ~sink, a + moved * a / free, edited)

    return rows(x, weights)


# --- linear --------------------------------------------------------------------------------------


@formula
def flow_attention(x, n):
    out = np.zeros((*x["q"].shape[:3], x["v"].shape[-1]))
    for b, h, q, k, v in heads(x):
        fq, fk = sigmoid(q), sigmoid(k)
        inflow, outflow = fq @ fk.sum(0), fk @ fq.sum(0)
        kept_in = fq @ (fk / outflow[:, None]).sum(0)
        kept_out = np.clip(fk @ (fq / inflow[:, None]).sum(0), -1, 1)
        compete = softmax(kept_out) * len(k)
        state = fk.T @ (compete[:, None] * v)
        out[b, h] = sigmoid(kept_in * len(q) / len(k))[:, None] * (fq / inflow[:, None]) @ state
    return out


@formula
def cosformer(x, n):
    out = np.zeros((*x["q"].shape[:3], x["v"].shape[-1]))
    for b, h, q, k, v in heads(x):
        longest = max(len(q), len(k))
        lag = np.arange(len(q))[:, None] - np.arange(len(k))
        w = relu(q) @ relu(k).T * np.cos(np.pi / 2 * lag / longest)
        out[b, h] = w @ v / np.maximum(w.sum(1, keepdims=True), 1e-6)
    return out


@formula
def performer(x, n):
    def features(y, w):
        y = y / y.shape[-1] ** 0.25
        return np.exp(y @ w.T - (y * y).sum(-1, keepdims=True) / 2) / math.sqrt(len(w))

    def weights(b, h, i, keys, q, k):
        p = features(k[keys], x["w"][h]) @ features(q[i : i + 1], x["w"][h])[0]
        return p / p.sum()

    return rows(x, weights)


# --- recurrences ---------------------------------------------------------------------------------


def scan(x, step, wide=None):
    """Rows in order for each batch entry and head: step(state, b, h, t) gives state and output."""
    q, k, v = x["q"], x["k"], x["v"]
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            state = np.zeros((k.shape[-1], v.shape[-1]))
            for t in range(q.shape[2]):
                state, out[b, h, t] = step(state, b, h, t)
    return out


@formula
def gated_delta(x, n):
    q, k, v = x["q"], x["k"], x["v"]

    def step(state, b, h, t):  # state[d, e]
        key, beta = k[b, h, t], x["beta"][b, h, t]
        transition = np.eye(len(key)) - beta * np.outer(key, key)
        state = np.exp(x["g"][b, h, t]) * transition @ state + beta * np.outer(key, v[b, h, t])
        return state, q[b, h, t] @ state * scale(x)

    return scan(x, step)


@formula
def constant_decay(x, n):
    q, k, v = x["q"], x["k"], x["v"]
    lag = np.arange(q.shape[2])[:, None] - np.arange(q.shape[2])
    decay = np.where(lag >= 0, np.exp(-x["slope"])[:, None, None] ** np.maximum(lag, 0), 0)
    return (q @ k.swapaxes(-1, -2) * decay) @ v


@formula
def rwkv7(x, n):
    r, k, v = x["r"], x["k"], x["v"]

    def step(state, b, h, t):  # state[d, e], the transpose of the paper's
        hat = x["kk"][b, h, t]
        transition = np.diag(x["w"][b, h, t]) - np.outer(hat, x["a"][b, h, t] * hat)
        state = (state.T @ transition + np.outer(v[b, h, t], k[b, h, t])).T
        bonus = (r[b, h, t] * k[b, h, t] * x["bonus"][h]).sum() * v[b, h, t]
        return state, state.T @ r[b, h, t] + bonus

    return scan({"q": r, "k": k, "v": v}, step)


@formula
def titans_linear(x, n):
    q, k, v = x["q"], x["k"], x["v"]
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            memory = start = momentum = np.zeros((k.shape[-1], v.shape[-1]))
            for t in range(q.shape[2]):
                start = memory if t % n["chunk"] == 0 else start
                slope = 2 * np.outer(k[b, h, t], k[b, h, t] @ start - v[b, h, t])
                momentum = x["eta"][b, h, t] * momentum - x["theta"][b, h, t] * slope
                memory = (1 - x["alpha"][b, h, t]) * memory + momentum
                out[b, h, t] = q[b, h, t] @ memory
    return out


@formula
def titans_mlp(x, n):
    q, k, v = x["q"], x["k"], x["v"]
    erf = np.vectorize(math.erf)

    def gelu(y):
        return y * (1 + erf(y / math.sqrt(2))) / 2

    def gelu_slope(y):
        return (1 + erf(y / math.sqrt(2))) / 2 + y * np.exp(-y * y / 2) / math.sqrt(2 * math.pi)

    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            first, second = x["a"][h], x["c"][h]
            za, zc = np.zeros_like(first), np.zeros_like(second)
            for t in range(q.shape[2]):
                if t % n["chunk"] == 0:
                    first0, second0 = first, second
                key, eta, theta = k[b, h, t], x["eta"][b, h, t], x["theta"][b, h, t]
                hidden = key @ first0
                miss = gelu(hidden) @ second0 - v[b, h, t]
                slope_c = 2 * np.outer(gelu(hidden), miss)
                slope_a = np.outer(key, 2 * (second0 @ miss) * gelu_slope(hidden))
                za, zc = eta * za - theta * slope_a, eta * zc - theta * slope_c
                keep = 1 - x["alpha"][b, h, t]
                first, second = keep * first + za, keep * second + zc
                out[b, h, t] = gelu(q[b, h, t] @ first) @ second
    return out


@formula
def mamba(x, n):
    u, dt = x["x"], x["dt"]
    out = np.zeros_like(u)
    for b in range(u.shape[0]):
        state = np.zeros(x["A"].shape)
        for t in range(u.shape[1]):
            step = dt[b, t][:, None]
            state = np.exp(step * x["A"]) * state + step * u[b, t][:, None] * x["B"][b, t]
            out[b, t] = state @ x["C"][b, t] + x["D"] * u[b, t]
    return out


@formula
def ss2d(x, n):
    u, order, place = x["x"], x["order"], x["place"]
    out = np.zeros_like(u)
    for b in range(u.shape[0]):
        for r in range(len(order)):
            state = np.zeros(x["A"].shape[1:])
            scanned = np.zeros_like(u[b])
            for t in range(u.shape[1]):
                step = x["dt"][b, r, t][:, None]
                drive = step * u[b, order[r, t]][:, None] * x["B"][b, r, t]
                state = np.exp(step * x["A"][r]) * state + drive
                scanned[t] = state @ x["C"][b, r, t]
            out[b] += scanned[place[r]]
    return out


@formula
def diag_ssm(x, n):
    """As a convolution with the kernel of the system."""
    u, dt = x["x"], x["dt"][:, None]
    lam, weight = x["lam"], x["C"] * x["B"] * (np.exp(dt * x["lam"]) - 1) / x["lam"]
    length = u.shape[1]
    kernel = np.array([(weight * np.exp(lam * lag * dt)).sum(-1).real for lag in range(length)])
    out = x["D"] * u
    for t in range(length):
        for s in range(t + 1):
            out[:, t] += kernel[t - s] * u[:, s]
    return out


@formula
def ahn(x, n):
    size, sinks = n["size"], n["sinks"]
    near = plain_softmax(x, lambda i, j: j <= i and (i - j < size or j < sinks))
    far = np.zeros_like(near)
    for b, h, qs, ks, vs in heads(x):
        state = np.zeros((ks.shape[-1], vs.shape[-1]))
        for t in range(len(qs)):
            s = t - size
            if s >= sinks:
                alpha, beta = x["alpha"][b, h, s], x["beta"][b, h, s]
                transition = np.eye(len(ks[s])) - beta * np.outer(ks[s], ks[s])
                state = alpha * transition @ state + beta * np.outer(ks[s], vs[s])
            far[b, h, t] = qs[t] @ state
    return near + x["gate"][..., None] * far


@formula
def hyena(x, n):
    inputs, filters, skip = x["x"], x["filter"], x["skip"]
    z = x["v"]
    count = inputs.shape[1]
    for r in range(count - 1):
        driven = inputs[:, r] * z
        mixed = np.zeros_like(z)
        for t in range(z.shape[1]):
            for s in range(t + 1):
                mixed[:, t] += filters[r, t - s] * driven[:, s]
        z = mixed + skip[r] * z
    return inputs[:, count - 1] * z


# --- several stages ------------------------------------------------------------------------------


@formula
def agent(x, n):
    out = np.zeros((*x["q"].shape[:3], x["v"].shape[-1]))
    count = n["agents"]
    for b, h, q, k, v in heads(x):
        owner = np.arange(len(q)) * count // len(q)
        agents = np.array([q[owner == a].mean(0) for a in range(count)])
        gathered = softmax(agents @ k.T * scale(x) + x["b1"][h]) @ v
        out[b, h] = softmax(q @ agents.T * scale(x) + x["b2"][h]) @ gathered
    return out


@formula
def softmax_context_parallel(x, n):
    return plain_softmax(x)


@formula
def combiner(x, n):
    size = n["size"]
    out = np.zeros((*x["q"].shape[:3], x["v"].shape[-1]))
    for b, h, q, k, v in heads(x):
        segments = [slice(s, s + size) for s in range(0, len(k), size)]
        pooled = np.array([k[s].max(0) for s in segments])
        values = [softmax(k[s] @ q[s].max(0) * scale(x)) @ v[s] for s in segments]
        for i in range(len(q)):
            own = i // size
            first = own * size
            keys = np.concatenate([k[first : i + 1], pooled[:own]])
            result = [*v[first : i + 1], *values[:own]]
            out[b, h, i] = softmax(keys @ q[i] * scale(x)) @ np.array(result)
    return out


@formula
def squeeze_excite(x, n):
    gate = sigmoid(relu(x["x"].mean(1) @ x["w1"]) @ x["w2"])
    return gate[:, None] * x["x"]


@formula
def channel_attention(x, n):
    q, k, v = x["q"], x["k"], x["v"]  # [b, h, n, c]
    s = q.swapaxes(-1, -2) @ k / x["temperature"][:, None, None]
    return softmax(s) @ v.swapaxes(-1, -2)  # [b, h, c, n]


@formula
def deformable_points(x, n):
    v, logit = x["v"], x["logit"]
    out = np.zeros((*logit.shape[:3], v.shape[-1]))
    for b, h, i in np.ndindex(*logit.shape[:3]):
        weight = softmax(logit[b, h, i].reshape(-1)).reshape(logit.shape[3:])
        for level, point in np.ndindex(*logit.shape[3:]):
            rows_, cols = x["rows"][level], x["cols"][level]
            py, px = x["py"][b, h, i, level, point], x["px"][b, h, i, level, point]
            for y in range(rows_):
                for z in range(cols):
                    tent = max(1 - abs(py - y), 0) * max(1 - abs(px - z), 0)
                    value = v[b, h, x["first"][level] + y * cols + z]
                    out[b, h, i] += weight[level, point] * tent * value
    return out


@formula
def outlook(x, n):
    height, width, taps = n["height"], n["width"], n["K"]
    v, logit = x["v"], x["logit"]
    out = np.zeros_like(v)
    reach = taps // 2
    for b, h, p in np.ndindex(*v.shape[:3]):
        y, z = p // width, p % width
        weight = softmax(logit[b, h, p])
        patch = np.zeros((taps * taps, v.shape[-1]))
        spots = [(y + t // taps - reach, z + t % taps - reach) for t in range(taps * taps)]
        inside = [0 <= a < height and 0 <= c < width for a, c in spots]
        for t, (a, c) in enumerate(spots):
            if inside[t]:
                patch[t] = v[b, h, a * width + c]
        result = weight @ patch
        for t, (a, c) in enumerate(spots):
            if inside[t]:
                out[b, h, a * width + c] += result[t]
    return out


@formula
def hyper_attention(x, n):
    out = np.zeros((*x["q"].shape[:3], x["v"].shape[-1]))
    group = x["q"].shape[1] // x["k"].shape[1]
    for b, h, q, k, v in heads(x):

        def blocks(hashes):
            order = np.argsort(hashes, kind="stable")
            return np.argsort(order) // n["block"]

        own, theirs = blocks(x["hq"][b, h]), blocks(x["hj"][b, h // group])
        sample = x["sample"][b, h]
        for i in range(len(q)):
            near = [j for j in range(len(k)) if theirs[j] == own[i]]
            far = [j for j in sample if theirs[j] != own[i]]
            s = [q[i] @ k[j] * scale(x) for j in near]
            s += [q[i] @ k[j] * scale(x) + math.log(len(k) / len(sample)) for j in far]
            if s:
                out[b, h, i] = softmax(s) @ v[near + far]
    return out


@formula
def accumulated_eviction(x, n):
    q, k, v = x["q"], x["k"], x["v"]
    group = q.shape[1] // k.shape[1]
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for b in range(q.shape[0]):
        for g in range(k.shape[1]):
            mass, alive = np.zeros(k.shape[2]), np.ones(k.shape[2], dtype=bool)
            for i in range(q.shape[2]):
                keys = [j for j in range(k.shape[2]) if j <= i and alive[j]]
                total = np.zeros(k.shape[2])
                for h in range(g * group, (g + 1) * group):
                    w = softmax(k[b, g, keys] @ q[b, h, i] * scale(x)) if keys else []
                    total[keys] += w
                    out[b, h, i] = np.asarray(w) @ v[b, g, keys] if keys else 0
                mass = n["alpha"] * mass + total
                order = [j for j in np.argsort(-mass, kind="stable") if alive[j]]
                best = set(order[: n["budget"]])
                for j in range(k.shape[2]):
                    alive[j] = alive[j] and (i - j < n["recent"] or j in best)
    return out
