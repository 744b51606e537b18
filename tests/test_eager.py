"""The eager form against the oracle, its derivatives against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attnc.backends.numpy_oracle import evaluate
from eager_loader import load, to_torch
from spec_builder import causal


def draw(rng, rows=5, keys=7, scale=1.0):
    shapes = {"q": (2, 4, rows, 3), "k": (2, 2, keys, 3), "v": (2, 2, keys, 4)}
    return {name: rng.normal(size=shape) * scale for name, shape in shapes.items()}


def close(a, b, tolerance=1e-12):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    finite = np.isfinite(b)
    assert np.array_equal(np.isnan(a), np.isnan(b))
    assert np.array_equal(a[~finite & ~np.isnan(b)], b[~finite & ~np.isnan(b)])
    size = np.abs(b[finite]).max(initial=1e-300)
    assert np.abs(a[finite] - b[finite]).max(initial=0.0) <= tolerance * size


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e-150])
@pytest.mark.parametrize("rows, keys", [(5, 7), (7, 5), (0, 3), (3, 0), (1, 1)])
def test_agrees_with_the_oracle(scale, rows, keys):
    spec = causal()
    case = draw(np.random.default_rng(1), rows, keys, scale)
    for extras in (
        {},
        {"offset": -2},
        {"offset": [3, -1], "key_length": [2, 0] if keys > 1 else [0, 0]},
    ):
        truth = evaluate(spec, case, emit=("lse",), **extras)
        found = load(spec)(**to_torch(case), emit=("lse",), **extras)
        for name, value in truth.items():
            close(found[name], value)


def test_derivatives_of_every_order_and_direction():
    spec = causal()
    eager = load(spec)
    case = to_torch(draw(np.random.default_rng(2), 3, 3), grad=True)

    def out(q, k, v):
        return eager(q=q, k=k, v=v)["out"]

    assert torch.autograd.gradcheck(out, tuple(case.values()), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(out, tuple(case.values()))


def test_masked_keys_do_not_matter():
    """NaN and infinities in keys and values that nobody sees: nothing comes through, forward or
    back, and a NaN that somebody sees stays in its rows."""
    spec = causal()
    rng = np.random.default_rng(3)
    clean = draw(rng, 4, 6)
    dirty = {name: array.copy() for name, array in clean.items()}
    dirty["k"][:, :, 4:], dirty["v"][:, :, 4:] = np.nan, np.inf
    close(evaluate(spec, dirty)["out"], evaluate(spec, clean)["out"], 1e-14)
    gradients = []
    for case in (clean, dirty):
        given = to_torch(case, grad=True)
        out = load(spec)(**given)["out"]
        gradients.append((out, *torch.autograd.grad(out.square().sum(), list(given.values()))))
    for a, b in zip(*gradients, strict=True):
        close(b.detach(), a.detach(), 1e-13)
    dirty["k"][0, 0, 2, 1] = np.nan
    truth = evaluate(spec, dirty)["out"]
    assert np.isnan(truth[0, :2, 2:]).all() and np.isfinite(truth[0, :2, :2]).all()
    assert np.isfinite(truth[0, 2:]).all() and np.isfinite(truth[1]).all()
    close(load(spec)(**to_torch(dirty))["out"], truth)


def test_empty_rows_are_zero_with_zero_gradients():
    spec = causal()
    given = to_torch(draw(np.random.default_rng(4), 4, 6), grad=True)
    found = load(spec)(**given, offset=-2, emit=("lse",))
    assert (found["out"][:, :, :2] == 0).all() and (found["lse"][:, :, :2] == -np.inf).all()
    gradients = torch.autograd.grad(found["out"].square().sum(), list(given.values()))
    assert all(torch.isfinite(each).all() for each in gradients)
    assert (gradients[0][:, :, :2] == 0).all()
    truth = evaluate(spec, {n: x.detach().numpy() for n, x in given.items()}, offset=-2)
    assert (truth["out"][:, :, :2] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_is_what_one_would_write(dtype):
    """The yardstick: products in the dtype, softmax in float32."""
    spec = causal()
    case = draw(np.random.default_rng(5), 6, 6)
    given = to_torch(case, dtype)
    found = load(spec)(**given)["out"]
    assert found.dtype == dtype
    k, v = (given[name].repeat_interleave(2, 1) for name in ("k", "v"))
    score = (given["q"] @ k.mT) * 3**-0.5
    score = score.masked_fill(torch.ones(6, 6).triu(1).bool(), -np.inf)
    plain = torch.softmax(score, -1, dtype=torch.float32).to(dtype) @ v
    truth = evaluate(spec, {name: x.double().numpy() for name, x in given.items()})["out"]
    own, yard = (x.double().numpy() - truth for x in (found, plain))
    assert np.linalg.norm(own) < 1.2 * np.linalg.norm(yard) + 1e-12
