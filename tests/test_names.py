"""Axes of a text may have the names that the compiler's own axes would take."""

from __future__ import annotations

import torch

import attnc

TEXT = """attention clash(q, k, v):
    axis split in 0 .. 5
    input q: real[b, h, i, head_group], k: real[b, hk, j, head_group], v: real[b, hk, j, part]
    input t: real[h, split]
    mask: j <= i
    score: dot(q[i], k[j]) * 0.35 + sum(split: t[split] * ((i + j + split) % 3))
    normalize: softmax(j: score)
"""


def test_shares_of_keys_and_gradients_of_groups() -> None:
    given = [torch.randn(1, 4, 1, 8), *torch.randn(2, 1, 2, 300, 8), torch.randn(4, 5)]
    q, k, v, t = (x.double() for x in given)
    op = attnc.compile(TEXT, backend="cpu")
    exact = torch.as_tensor(op.reference(q, k, v, t=t, offset=299))
    torch.testing.assert_close(op(q, k, v, t=t, offset=299), exact)
    halves = [
        op.partial(q, k[:, :, at], v[:, :, at], t=t, offset=299, key_offset=at.start)
        for at in (slice(0, 150), slice(150, 300))
    ]
    torch.testing.assert_close(op.finish(op.merge(*halves)), exact)
    dense = attnc.compile(TEXT, backend="eager")
    leaves = [x.requires_grad_() for x in (q, k, v, t)]
    found, wanted = (
        torch.autograd.grad(f(q, k, v, t=t, offset=299).sin().sum(), leaves) for f in (op, dense)
    )
    torch.testing.assert_close(found, wanted)
