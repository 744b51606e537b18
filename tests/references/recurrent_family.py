"""The families linear, decay, delta and ssm: states in loops over tokens."""

from __future__ import annotations

import math

import numpy as np

from references import reference, sigmoid, softmax


def softplus(x):
    return np.logaddexp(0.0, x)


def unit(x):
    norm = np.sqrt((x * x).sum())
    return x / norm if norm else np.zeros_like(x)


def rmsnorm(x):
    return x / np.sqrt((x * x).mean() + 1e-6)


def feature(x):
    """elu + 1"""
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def by_token(t, step, query="q", key="k"):
    """out[b, h, t] of step(state, b, h, t, q, k, v) -> (state, row); the state is d_k x d_v."""
    q, k, v = t[query], t[key], t["v"]
    batch, heads, length, _ = q.shape
    group = heads // max(k.shape[1], 1)
    value_group = heads // max(v.shape[1], 1)
    out = np.zeros((batch, heads, length, v.shape[-1]))
    for b, h in np.ndindex(batch, heads):
        state = np.zeros((k.shape[-1], v.shape[-1]))
        memory = {"S": state, "z": np.zeros(k.shape[-1])}
        for i in range(length):
            row = (q[b, h, i], k[b, h // group, i], v[b, h // value_group, i])
            out[b, h, i] = step(memory, b, h, i, *row)
    return out


@reference
def linear_attention(t, n, offset):
    """The parallel form: sums over the tokens so far."""
    q, k, v = t["q"], t["k"], t["v"]
    group = q.shape[1] // max(k.shape[1], 1)
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    weight = np.tril(feature(q) @ np.swapaxes(feature(k), -1, -2))
    return (weight @ v) / weight.sum(-1, keepdims=True)


@reference
def learned_normalizer(t, n, offset):
    q, k, v = t["q"], t["k"], t["v"]
    group = q.shape[1] // max(k.shape[1], 1)
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    return np.exp(-t["x"])[..., None] * (np.tril(q @ np.swapaxes(k, -1, -2)) @ v)


@reference
def constant_decay(t, n, offset):
    """The parallel form: the weight of a token is lambda to the power of its age."""
    q, k, v = t["q"], t["k"], t["v"]
    group = q.shape[1] // max(k.shape[1], 1)
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    age = np.arange(q.shape[2])[:, None] - np.arange(q.shape[2])[None]
    decay = np.exp(-t["slope"][:, None, None] * np.maximum(age, 0))
    return (np.tril(q @ np.swapaxes(k, -1, -2)) * decay) @ v


@reference
def gla(t, n, offset):
    def step(m, b, h, i, q, k, v):
        m["S"] = (sigmoid(t["g"][b, h, i]) ** (1 / 16))[:, None] * m["S"] + np.outer(k, v)
        return q @ m["S"] / np.sqrt(len(q))

    return by_token(t, step)


@reference
def gated_linear_normalized(t, n, offset):
    def step(m, b, h, i, q, k, v):
        gate = sigmoid(t["g"][b, h, i])
        m["S"] = gate * m["S"] + np.outer(feature(k), v)
        m["z"] = gate * m["z"] + feature(k)
        return feature(q) @ m["S"] / (feature(q) @ m["z"])

    return by_token(t, step)


@reference
def delta_rule(t, n, offset):
    def step(m, b, h, i, q, k, v):
        beta, k = sigmoid(t["beta"][b, h, i]), unit(k)
        m["S"] = (np.eye(len(k)) - beta * np.outer(k, k)) @ m["S"] + beta * np.outer(k, v)
        return q @ m["S"]

    return by_token(t, step)


@reference
def gated_delta(t, n, offset):
    def step(m, b, h, i, q, k, v):
        alpha = np.exp(-np.exp(t["a"][h]) * softplus(t["x"][b, h, i] + t["bias"][h]))
        beta, k = sigmoid(t["beta"][b, h, i]), unit(k)
        forget = alpha * (np.eye(len(k)) - beta * np.outer(k, k))
        m["S"] = forget @ m["S"] + beta * np.outer(k, v)
        return unit(q) @ m["S"] / np.sqrt(len(q))

    return by_token(t, step)


@reference
def rwkv7(t, n, offset):
    def step(m, b, h, i, r, k, v):
        decay = np.exp(-np.exp(-0.5) * sigmoid(t["w"][b, h, i]))
        rate = sigmoid(t["a"][b, h, i])
        removed = unit(k * t["removal"][h])
        added = k * (1 + (rate - 1) * t["replacement"][h])
        forget = np.diag(decay) - np.outer(rate * removed, removed)
        m["S"] = forget @ m["S"] + np.outer(added, v)
        return r @ m["S"] + (r * added * t["bonus"][h]).sum() * v

    return by_token(t, step, query="r")


@reference
def titans_linear(t, n, offset):
    def step(m, b, h, i, q, k, v):
        alpha, eta, theta = (sigmoid(t[name][b, h, i]) for name in ("alpha", "eta", "theta"))
        if i == 0:
            m["momentum"] = np.zeros_like(m["S"])
            m["S"] = t["first"][h] if "first" in t else m["S"]
        if i % n["chunk"] == 0:
            m["start"] = m["S"]
        k, q = unit(k), unit(q)
        slope = 2 * np.outer(k, m["start"].T @ k - v)
        m["momentum"] = eta * m["momentum"] - theta * slope
        m["S"] = (1 - alpha) * m["S"] + m["momentum"]
        return m["S"].T @ q

    return by_token(t, step)


@reference
def titans_mlp(t, n, offset):
    """The gradient of a network of two layers, backwards by hand."""
    erf = np.vectorize(math.erf)

    def gelu(x):
        return x * (1 + erf(x / np.sqrt(2))) / 2

    def slope_of_gelu(x):
        return (1 + erf(x / np.sqrt(2))) / 2 + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)

    def step(m, b, h, i, q, k, v):
        alpha, eta, theta = (sigmoid(t[name][b, h, i]) for name in ("alpha", "eta", "theta"))
        if i == 0:
            m["w"] = [t["a"][h], t["c"][h]]
            m["z"] = [np.zeros_like(w) for w in m["w"]]
        if i % n["chunk"] == 0:
            m["start"] = list(m["w"])
        first, second = m["start"]
        k, q = unit(k), unit(q)
        inner = k @ first
        error = 2 * (gelu(inner) @ second - v)
        slopes = [
            np.outer(k, (second @ error) * slope_of_gelu(inner)),
            np.outer(gelu(inner), error),
        ]
        m["z"] = [eta * z - theta * slope for z, slope in zip(m["z"], slopes, strict=True)]
        m["w"] = [(1 - alpha) * w + z for w, z in zip(m["w"], m["z"], strict=True)]
        return gelu(q @ m["w"][0]) @ m["w"][1]

    return by_token(t, step)


@reference
def mamba(t, n, offset):
    x = t["x"]
    out = np.zeros_like(x)
    for b in range(x.shape[0]):
        hidden = np.zeros_like(t["A"])
        for i in range(x.shape[1]):
            step = softplus(t["dt"][b, i] + t["bias"])[:, None]
            pushed = step * t["B"][b, i][None] * x[b, i][:, None]
            hidden = np.exp(-step * np.exp(t["A"])) * hidden + pushed
            out[b, i] = hidden @ t["C"][b, i] + t["D"] * x[b, i]
    return out


@reference
def mamba2(t, n, offset):
    """The matrix form: M_ij = C_i . B_j times the decays between."""
    x, heads = t["x"], t["x"].shape[1]
    group = heads // max(t["B"].shape[1], 1)
    keys, queries = (np.repeat(t[name], group, 1) for name in ("B", "C"))
    step = softplus(t["dt"] + t["bias"][:, None])
    logs = np.cumsum(-step * np.exp(t["A"])[:, None], -1)
    between = np.tril(np.exp(np.minimum(logs[..., :, None] - logs[..., None, :], 0)))
    weight = between * (queries @ np.swapaxes(keys, -1, -2)) * step[..., None, :]
    return weight @ x + t["D"][:, None, None] * x


@reference
def hgrn(t, n, offset):
    x = t["x"]
    bound = sigmoid(t["bound"])
    out, hidden = np.zeros_like(x), np.zeros((x.shape[0], x.shape[2]))
    for i in range(x.shape[1]):
        keep = bound + (1 - bound) * sigmoid(t["f"][:, i])
        hidden = keep * hidden + (1 - keep) * x[:, i]
        out[:, i] = hidden
    return out


@reference
def titans_hybrid(t, n, offset):
    """Each row lists what it sees: learned tokens, its segment, what is told of that."""
    q, k, v = t["q"], t["k"], t["v"]
    out, group = np.zeros((*q.shape[:3], v.shape[-1])), q.shape[1] // max(k.shape[1], 1)
    for b, h in np.ndindex(q.shape[:2]):
        memory = np.zeros((q.shape[-1], v.shape[-1]))
        start, speed = memory, np.zeros_like(memory)
        for i in range(q.shape[2]):
            alpha, eta, theta = (sigmoid(t[name][b, h, i]) for name in ("alpha", "eta", "theta"))
            begin = i - i % n["size"]
            start = memory if i == begin else start
            told = [start.T @ unit(q[b, h, s]) for s in range(begin, i + 1)]
            own = slice(begin, i + 1)
            keys = [*t["pk"][h], *k[b, h // group, own], *(one @ t["ck"][h] for one in told)]
            values = [*t["pv"][h], *v[b, h // group, own], *(one @ t["cv"][h] for one in told)]
            y = softmax(np.array(keys) @ q[b, h, i] / np.sqrt(q.shape[-1])) @ np.array(values)
            key = unit(y @ t["wk"][h])
            slope = 2 * np.outer(key, start.T @ key - y @ t["wv"][h])
            speed = eta * speed - theta * slope
            memory = (1 - alpha) * memory + speed
            out[b, h, i] = y * (memory.T @ unit(y @ t["wq"][h]))
    return out


@reference
def titans_mag(t, n, offset):
    q, k, v = t["q"], t["k"], t["v"]
    out, group = np.zeros((*q.shape[:3], v.shape[-1])), q.shape[1] // max(k.shape[1], 1)
    far = titans_linear(t, n, offset)
    for b, h, i in np.ndindex(q.shape[:3]):
        seen = slice(max(i - n["window"] + 1, 0), i + 1)
        keys = np.concatenate([t["pk"][h], k[b, h // group, seen]])
        values = np.concatenate([t["pv"][h], v[b, h // group, seen]])
        near = softmax(keys @ q[b, h, i] / np.sqrt(q.shape[-1])) @ values
        gate = sigmoid(t["told"][h] * rmsnorm(far[b, h, i]))
        out[b, h, i] = t["own"][h] * rmsnorm(near) * gate
    return out


@reference
def titans_mal(t, n, offset):
    """The memory's rows first, then a window of them."""
    told = titans_linear(t, n, offset)
    asked = np.einsum("bhie,hed->bhid", told, t["wq"])
    keys = np.einsum("bhie,hed->bhid", told, t["wk"])
    values = np.einsum("bhie,hea->bhia", told, t["wv"])
    out = np.zeros_like(told)
    for b, h, i in np.ndindex(asked.shape[:3]):
        seen = slice(max(i - n["window"] + 1, 0), i + 1)
        weights = softmax(keys[b, h, seen] @ asked[b, h, i] / np.sqrt(asked.shape[-1]))
        out[b, h, i] = weights @ values[b, h, seen]
    return out


@reference
def natsl(t, n, offset):
    """Chunk by chunk: its rows go on from what the chunks before have left."""
    q, k, v, size = t["q"], t["k"], t["v"], n["size"]
    out, group = np.zeros((*q.shape[:3], v.shape[-1])), q.shape[1] // max(k.shape[1], 1)

    def delta(state, b, h, i, kept=True):
        decay = np.exp(-np.exp(t["a"][h]) * softplus(t["x"][b, h, i] + t["bias"][h]))
        key, rate = unit(k[b, h // group, i]), sigmoid(t["beta"][b, h, i])
        state = decay * state
        return state + kept * rate * np.outer(key, v[b, h // group, i] - state.T @ key)

    for b, h in np.ndindex(q.shape[:2]):
        left, keys = np.zeros((q.shape[-1], v.shape[-1])), []
        for begin in range(0, q.shape[2], size):
            rows = range(begin, min(begin + size, q.shape[2]))
            kinds = t["choice"][h] @ t["y"][b, rows.start : rows.stop].mean(0)
            state = left
            for i in rows:
                state = delta(state, b, h, i)
                seen = [*keys, *range(begin, i + 1)]
                near = softmax(k[b, h // group, seen] @ q[b, h, i] / np.sqrt(q.shape[-1]))
                near = near @ v[b, h // group, seen]
                far = state.T @ unit(q[b, h, i]) / np.sqrt(q.shape[-1])
                w, gate = softmax(t["mix"][h] @ q[b, h, i]), t["gate"][b, h, i]
                parts = [t["gain"][h, r] * rmsnorm(one) for r, one in enumerate((far, near))]
                out[b, h, i] = gate * sigmoid(gate) * (w[0] * parts[0] + w[1] * parts[1])
            for i in rows:
                left = delta(left, b, h, i, kinds[1] > kinds[0])
            keys += [] if kinds[1] > kinds[0] else rows
    return out


@reference
def hydra(t, n, offset):
    """The matrix: its lower part from one scan, its upper part from the other, a diagonal."""
    x, count = t["x"], t["x"].shape[2]
    groups = x.shape[1] // max(t["B"].shape[1], 1)

    def lower(steps, keys, queries):
        """M_ij of a scan, every row moved down by one."""
        steps = softplus(steps + t["bias"][:, None])
        logs = np.cumsum(-steps * np.exp(t["A"])[:, None], -1)
        between = np.tril(np.exp(np.minimum(logs[..., :, None] - logs[..., None, :], 0)))
        keys, queries = np.repeat(keys, groups, 1), np.repeat(queries, groups, 1)
        scan = between * (queries @ np.swapaxes(keys, -1, -2)) * steps[..., None, :]
        return np.concatenate([np.zeros_like(scan[..., :1, :]), scan[..., :-1, :]], -2)

    turned = (t["back"][..., ::-1], t["Bb"][:, :, ::-1], t["Cb"][:, :, ::-1])
    matrix = lower(t["forth"], t["B"], t["C"]) + lower(*turned)[..., ::-1, ::-1]
    own = t["D"][:, None] + np.einsum("hgp,bgtp->bht", t["wd"], x)
    mixed = (matrix + np.eye(count) * own[..., None]) @ x
    gated = mixed * t["z"] * sigmoid(t["z"])
    size = np.sqrt((gated * gated).mean((1, 3), keepdims=True) + 1e-6)
    return gated / size * t["gain"][:, None]
