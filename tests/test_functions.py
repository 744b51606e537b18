"""Elementary functions that kernels compute by polynomials of their own, point by point."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import attnc

TEXT = """
attention arcs(q, k, v):
    input tan: real[i]
    mask: j == i
    score: dot(q[i], k[j])
    normalize: softmax(j: score)
    own[i] = sum(j: weight * v[j])
    read: asin(own[i])
    emit other[i] = acos(own[i])
    emit slope[i] = atan(tan * own[i])
"""
UNITS = 3  # in the last place; libm's are within 1


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("backend", ("cpu", "triton"))
def test_arcs(backend: str, dtype: torch.dtype) -> None:
    """From -1 to 1 and what lies beyond, where asin and acos are NaN."""
    x = torch.cat([torch.linspace(-1, 1, 159), torch.tensor([1.5])]).to(dtype)
    steep = torch.logspace(-3, 9, 20).to(dtype)
    v = x.reshape(1, 1, 20, 8)
    q = torch.zeros(1, 1, 20, 2, dtype=dtype)
    operator = attnc.compile(TEXT, backend=backend)
    found = operator(q, q, v, tan=steep, emit=("other", "slope"))
    exact = v[0, 0].numpy().astype(np.longdouble)
    with np.errstate(invalid="ignore"):
        wanted = (np.arcsin(exact), np.arccos(exact), np.arctan((steep[:, None] * v[0, 0]).numpy()))
    for ours, truth in zip(found, wanted, strict=True):
        unit = np.spacing(np.abs(truth).astype(v.numpy().dtype))
        off = np.abs(ours[0, 0].numpy() - truth) / unit
        assert np.array_equal(np.isnan(ours[0, 0].numpy()), np.isnan(truth))
        assert np.nanmax(off) <= UNITS
