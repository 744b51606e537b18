"""Weights that are changed, exported, or shared; channels and layers as keys; heads taken apart."""

from __future__ import annotations

import numpy as np

from references import Pairs, by_sum, causal, reference
from references import softmax as row_softmax


def weights_of(p, score, visible):
    """[b, h, rows, keys], 0 outside the mask."""
    found = np.zeros((p.batch, p.heads, p.rows, p.keys))
    for b, h, row in np.ndindex(p.batch, p.heads, p.rows):
        i = row + p.offset
        keys = [j for j in range(p.keys) if visible(b, h, i, j)]
        found[b, h, row, keys] = row_softmax(np.array([score(b, h, i, j) for j in keys]))
    return found


def values_of(p, weights, values):
    values = np.repeat(values, p.group, axis=1)
    return np.einsum("bhij,bhje->bhie", weights, values)


@reference
def weight_edit(t, n, offset):
    p = Pairs(t, offset)
    gain = np.where(t["focus"][:, None, None, :], 1 + t["gain"][None, :, None, None], 1)
    edited = weights_of(p, p.logit, causal) * gain
    for row in np.ndindex(edited.shape[:3]):
        edited[row] = by_sum(edited[row])
    return values_of(p, edited, p.v)


@reference
def extra_values(t, n, offset):
    p = Pairs(t, offset)
    weights = weights_of(p, p.logit, causal)
    return values_of(p, weights, p.v), values_of(p, weights, t["logits"])


@reference
def attention_export(t, n, offset):
    p = Pairs(t, offset)
    weights = weights_of(p, p.logit, lambda b, h, i, j: causal(b, h, i, j) and j < t["length"][b])
    return values_of(p, weights, p.v), weights, weights.sum(2)


@reference
def pointer(t, n, offset):
    p = Pairs(t, offset)
    weights = weights_of(
        p,
        lambda b, h, i, j: n["clip"] * np.tanh(p.logit(b, h, i, j)),
        lambda b, h, i, j: t["open"][b, i - offset, j],
    )
    return values_of(p, weights, p.v), weights


@reference
def channel_relu(t, n, offset):
    q, k = (x / np.sqrt((x**2).sum(2, keepdims=True)) for x in (t["q"], t["k"]))
    gram = np.einsum("bhnc,bhna->bhca", q, k) * t["temperature"][:, None, None]
    return np.einsum("bhca,bhna->bhcn", np.maximum(gram, 0), t["v"])


@reference
def channel_gram(t, n, offset):
    x = t["x"]
    energy = np.einsum("bnc,bna->bca", x, x)
    weights = np.apply_along_axis(lambda e: row_softmax(e.max() - e), -1, energy)
    return (n["gain"] * np.einsum("bca,bna->bnc", weights, x) + x).transpose(0, 2, 1)


@reference
def depth_attention(t, n, offset):
    v = t["v"]
    normed = v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-6) * t["gain"]
    logits = np.einsum("d,blid->bil", t["w"], normed)
    weights = np.apply_along_axis(row_softmax, -1, logits)
    return np.einsum("bil,blid->bid", weights, v)


@reference
def head_mixing(t, n, offset):
    p = Pairs(t, offset)
    heads = p.attend(lambda b, h, i, j: p.logit(b, h, i, j) * t["amplification"][h], causal)
    mixed = np.einsum("gh,bhie->bige", t["mix"], heads)
    mixed = mixed - mixed.mean(-1, keepdims=True)
    return mixed / np.sqrt((mixed**2).mean(-1, keepdims=True) + 1e-5)


@reference
def head_tap(t, n, offset):
    p = Pairs(t, offset)
    parts = np.einsum("bhie,hem->bhim", p.attend(p.logit, causal), t["output"])
    return (t["gain"][..., None] * parts).sum(1) + t["steer"], parts
