"""The segment and head families."""

from __future__ import annotations

import numpy as np

from references import Pairs, causal, reference, rotate, softmax


@reference
def document_mask(t, n, offset):
    p = Pairs(t, offset)
    block = n["block"]

    def seen(b, h, i, j):
        return t["rows"][b, i - offset] == t["keys"][b, j] and j // block <= i // block

    return p.attend(p.logit, seen)


@reference
def prefix_lm(t, n, offset):
    p = Pairs(t, offset)

    def seen(b, h, i, j):
        if t["doc"][b, i] != t["doc"][b, j]:
            return False
        return j <= i or j < t["border"][b, i]

    return p.attend(p.logit, seen)


@reference
def block_rag(t, n, offset):
    p = Pairs(t, offset)
    block = t["block"]

    def seen(b, h, i, j):
        return j <= i and (block[b, i] == n["last"] or block[b, i] == block[b, j])

    def score(b, h, i, j):
        key = rotate(p.key(b, h, j), t["begin"][b, j])
        return rotate(p.query(b, h, i), i) @ key * p.scale

    return p.attend(score, seen)


@reference
def gist(t, n, offset):
    p = Pairs(t, offset)

    def seen(b, h, i, j):
        return j <= i and bool(t["gist"][b, j] or t["segment"][b, i] == t["segment"][b, j])

    return p.attend(p.logit, seen)


@reference
def segment_relation(t, n, offset):
    p = Pairs(t, offset)
    kind = t["kind"]
    return p.attend(p.logit, lambda b, h, i, j: bool(t["allowed"][kind[b, i], kind[b, j]]))


@reference
def value_sign_flip(t, n, offset):
    p = Pairs(t, offset)

    def pairs(b, h, i):
        kind = t["kind"][b]
        found = []
        for j in range(p.keys):
            s = rotate(p.query(b, h, i), i) @ rotate(p.key(b, h, j), j) * p.scale
            if t["allowed"][kind[i], kind[j]]:
                found.append((s, p.value(b, h, j)))
            if kind[i] == 0 and kind[j] == 2:
                found.append((s - n["shift"], -n["strength"] * p.value(b, h, j)))
        return found

    return p.fold(pairs)


@reference
def weighted_extended(t, n, offset):
    p = Pairs(t, offset)

    def pairs(b, h, i):
        target = [(n["gamma"] * p.logit(b, h, i, j), p.value(b, h, j)) for j in range(p.keys)]
        source = zip(t["ks"][b, h // p.group], t["vs"][b, h // p.group], strict=True)
        return target + [(p.query(b, h, i) @ k * p.scale, v) for k, v in source]

    return p.fold(pairs)


@reference
def mixture_of_heads(t, n, offset):
    p = Pairs(t, offset)
    heads = p.attend(p.logit, causal)
    shared, keep = n["shared"], n["keep"]
    out = np.zeros((p.batch, p.rows, t["wo"].shape[-1]))
    for b, i in np.ndindex(p.batch, p.rows):
        a = 2 * softmax(t["mix"][b, i])
        gate = np.zeros(p.heads)
        gate[:shared] = a[0] * softmax(t["ws"][b, :shared, i]) * shared
        routed = softmax(t["wr"][b, :, i])
        best = sorted(range(shared, p.heads), key=lambda h: -routed[h])[:keep]
        for h in best:
            gate[h] = a[1] * routed[h] / routed[best].sum() * keep
        out[b, i] = sum(gate[h] * heads[b, h, i] @ t["wo"][h] for h in range(p.heads))
    return out


@reference
def per_head_mask(t, n, offset):
    p = Pairs(t, offset)

    def seen(b, h, i, j):
        return j <= i and j < t["length"][b] and bool(t["seen"][b, h, i - offset, j])

    return p.attend(p.logit, seen)


@reference
def duo_heads(t, n, offset):
    p = Pairs(t, offset)

    def seen(b, h, i, j):
        stream = j < n["sinks"] or i - n["recent"] < j
        return j <= i and bool(stream or t["retrieval"][h // p.group])

    return p.attend(p.logit, seen)


@reference
def razor_heads(t, n, offset):
    p = Pairs(t, offset)
    out = np.zeros((p.batch, p.heads, p.rows, p.v.shape[-1]))
    for b, h, row in np.ndindex(p.batch, p.heads, p.rows):
        i = row + offset
        free = bool(t["retrieval"][h // p.group])
        gone = [j for j in range(p.keys) if t["dropped"][b, j] and not free]
        kept = [j for j in range(min(i + 1, p.keys)) if free or not t["dropped"][b, j]]
        total, mass = np.zeros(p.v.shape[-1]), 0.0
        for j in kept:
            w = np.exp(p.logit(b, h, i, j))
            total, mass = total + w * p.value(b, h, j), mass + w
        if gone:
            khat = np.mean([p.key(b, h, j) for j in gone], axis=0)
            vhat = np.mean([p.value(b, h, j) for j in gone], axis=0)
            w = len(gone) * np.exp(p.query(b, h, i) @ khat * p.scale)
            total, mass = total + w * vhat, mass + w
        out[b, h, row] = total / mass if mass else 0
    return out


@reference
def shifted_groups(t, n, offset):
    p = Pairs(t, offset)
    size = n["size"]

    def seen(b, h, i, j):
        s = int(t["shift"][h])
        return j <= i and (j < n["sinks"] or (i + s) // size == (j + s) // size)

    return p.attend(p.logit, seen)
