"""Keys and values that a mask hides may be uninitialised memory: NaN there reaches no row, and no
gradient, that does not see it, also where other rows of the same tile do."""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported anywhere

import pytest
import torch

import attnc

TEXT = """
attention hidden(q, k, v):
    input length: int[b]
    mask: j <= i and j < length
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
"""


@pytest.mark.parametrize("backend", ["cpu"])
def test_what_is_hidden_may_be_nan(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNC_CXXFLAGS", "-O1")
    op = attnc.compile(TEXT, backend=backend)
    torch.manual_seed(0)
    clean = [torch.randn(1, 1, 20, 8) for _ in range(3)]
    poisoned = [x.clone() for x in clean]
    for x in poisoned[1:]:
        x[:, :, 13:] = float("nan")
        x[:, :, 15:] = float("inf")
    poisoned[2][:, :, 9, 3] = float("nan")  # rows 9 and later see it

    found, wanted = [], []
    for tensors, into in ((poisoned, found), (clean, wanted)):
        q, k, v = (x.requires_grad_() for x in tensors)
        out = op(q, k, v, length=torch.tensor([13]))
        into.append(out[:, :, :9])
        assert out[:, :, 9:].isnan().any(-1).all() == (tensors is poisoned)
    torch.testing.assert_close(found[0], wanted[0])

    poisoned[2].data[:, :, 9] = clean[2].data[:, :, 9]  # what is left is hidden from every row
    gradients = [
        torch.autograd.grad(op(*x, length=torch.tensor([13])).square().sum(), x)
        for x in (poisoned, clean)
    ]
    torch.testing.assert_close(*gradients)
