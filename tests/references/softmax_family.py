"""The softmax family."""

from __future__ import annotations

import numpy as np

from references import Pairs, causal, reference, sigmoid
from references import softmax as row_softmax


@reference
def softmax(t, n, offset):
    p = Pairs(t, offset)
    return p.attend(p.logit)


@reference
def causal_softmax(t, n, offset):
    p = Pairs(t, offset)
    return p.attend(p.logit, causal)


@reference
def gated_softmax(t, n, offset):
    p = Pairs(t, offset)
    gate = sigmoid(np.einsum("bic,hce->bhie", t["x"], t["w"]))
    return gate * p.attend(p.logit, causal)


@reference
def additive(t, n, offset):
    p = Pairs(t, offset)

    def score(b, h, i, j):
        return (t["w"][h] * np.tanh(p.query(b, h, i) + p.key(b, h, j) + t["c"][h])).sum()

    return p.attend(score, lambda b, h, i, j: j < t["length"][b])


@reference
def additive_feedback(t, n, offset):
    p = Pairs(t, offset)
    out = np.zeros((p.batch, p.heads, p.rows, p.v.shape[-1]))
    for b, h in np.ndindex(p.batch, p.heads):
        used = np.zeros(p.keys)
        length = min(max(t["length"][b], 0), p.keys)
        for i in range(p.rows):
            hidden = [
                np.tanh(p.query(b, h, i + offset) + p.key(b, h, j) + t["back"][h] * used[j])
                for j in range(length)
            ]
            weights = row_softmax(np.array([(t["w"][h] * x).sum() for x in hidden]))
            out[b, h, i] = sum(w * p.value(b, h, j) for j, w in enumerate(weights))
            used[:length] += 0.5 * weights * sigmoid(t["fertility"][b, h, :length])
    return out


@reference
def bilinear(t, n, offset):
    p = Pairs(t, offset)
    return p.attend(
        lambda b, h, i, j: p.query(b, h, i) @ t["w"][h] @ p.key(b, h, j) / np.sqrt(p.width)
    )


@reference
def decoupled_target(t, n, offset):
    p = Pairs(t, offset)
    return p.attend(p.logit, lambda b, h, i, j: j < t["length"][b]) * t["target"]


@reference
def tensor_attention(t, n, offset):
    p = Pairs(t, offset)

    def pairs(b, h, i):
        keys = range(min(i + 1, p.keys))
        second, values = t["k2"][b, h // p.group], t["v2"][b, h // p.group]
        return [
            (
                (p.query(b, h, i) * p.key(b, h, j) * second[m]).sum() / p.width,
                p.value(b, h, j) * values[m],
            )
            for j in keys
            for m in keys
        ]

    return p.fold(pairs)


@reference
def aaren(t, n, offset):
    k, v = t["k"], t["v"]
    heads, d = t["q"].shape
    group = heads // k.shape[1]
    out = np.zeros((k.shape[0], heads, k.shape[2], v.shape[-1]))
    for b, h in np.ndindex(k.shape[0], heads):
        weights = np.exp(k[b, h // group] @ t["q"][h] / np.sqrt(d))
        total = np.cumsum(weights[:, None] * v[b, h // group], axis=0)
        out[b, h] = total / np.cumsum(weights)[:, None]
    return out


@reference
def smeared_key(t, n, offset):
    p = Pairs(t, offset)

    def score(b, h, i, j):
        mix = sigmoid(t["a"][h // p.group])
        before = p.key(b, h, j - 1) if j > 0 else np.zeros(p.width)
        return p.query(b, h, i) @ (mix * p.key(b, h, j) + (1 - mix) * before) * p.scale

    return p.attend(score, causal)


@reference
def slot_mixture(t, n, offset):
    logits = np.einsum("bhid,hrd->bhir", t["q"], t["w"]) + t["c"][None, :, None]
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhir,hre->bhie", weights, t["codes"])


@reference
def memory_slots(t, n, offset):
    p = Pairs(t, offset)

    def pairs(b, h, i):
        own = [(p.logit(b, h, i, j), p.value(b, h, j)) for j in range(p.keys) if j <= i]
        slots = zip(t["mk"][h], t["mv"][h], strict=True)
        return own + [(p.query(b, h, i) @ k * p.scale, v) for k, v in slots]

    return p.fold(pairs)


@reference
def concat_kv(t, n, offset):
    p = Pairs(t, offset)

    def pairs(b, h, i):
        first = [(p.logit(b, h, i, j), p.value(b, h, j)) for j in range(p.keys)]
        k2, v2 = t["k2"][b, h // p.group], t["v2"][b, h // p.group]
        second = [(p.query(b, h, i) @ k * p.scale, v) for k, v in zip(k2, v2, strict=True)]
        return first[: max(t["length"][b], 0)] + second[: max(t["length2"][b], 0)]

    return p.fold(pairs)


@reference
def perturbed_logits(t, n, offset):
    p = Pairs(t, offset)

    def score(b, h, i, j):
        hidden = np.tanh(p.query(b, h, i) + p.key(b, h, j))
        return t["w"][h] @ hidden + t["r"][b, h, i - offset, j]

    return p.attend(score, lambda b, h, i, j: j < t["length"][b])
