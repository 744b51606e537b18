"""Equations over windows, looked-up rows and turning sums: what a library has for them, and that it
does the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_pipeline import agrees, became, spec_of

from attnc.cases import Shape
from attnc.operator import Operator
from attnc.runtime.eager_numbers import Real, plain
from attnc.runtime.eager_windows import bagged, correlated, pooled

SMALL = Shape(6, 6, 4, 3, 2, 1, 2)
MAP = "axis n = (y < height, x < width)"
TAP = "(x[(n.y + u - 1, n.x + w - 2)] else 0)"

LINES = {
    "causal taps": (
        ("input taps: real[h, u]", "s[j] = sum(u: taps[u] * (v[j - u] else 0))"),
        "convolution (conv1d)",
    ),
    "taps of each channel": (
        ("input taps: real[u, e]", "s[j] = sum(u: taps[u] * (v[j + 2 * u - 3] else 0))"),
        "a depthwise convolution (conv1d)",
    ),
    "channels are summed, in steps": (
        (
            "input taps: real[h, u, e, f]",
            "axis c < (len(j) + 1) // 2",
            "s[c] = sum(u: (v[c * 2 + u - 1] else 0) @ taps[u])",
        ),
        "convolution (conv1d)",
    ),
    "a difference of two": (
        (
            "input taps: real[h, u]",
            "s[j] = sum(u: taps[u] * (v[j - u] - 2 * v[j - u] else 0))",
        ),
        "convolution (conv1d)",
    ),
    "a moving maximum": (("s[j] = max(u < 3: v[j + u - 1] else -inf)",), "a maximum over windows"),
    "a moving mean": (
        ("axis c < len(j) // 2", "s[c] = mean(u < 2: v[c * 2 + u])"),
        "a sum over windows",
    ),
    "rows that others choose": (
        (
            "input at: int[b, j, p], w: real[b, h, j, p]",
            "s[j] = sum(p: w[j, p] * (v[at[j, p] - 1] else 0))",
        ),
        "a weighted sum of looked-up rows",
    ),
    "weights of any size": (
        (
            "input at: int[b, j, p], w: real[b, h, j, p]",
            "s[j] = (sum(p: exp(400 * w[j, p]) * (v[at[j, p] - 1] else 0))"
            " / sum(p: exp(400 * w[j, p])))",
        ),
        "a weighted sum of looked-up rows",
    ),
    "frequencies": (
        (
            "input x: real[b, t, c]",
            "axis f < len(t)",
            "s[f] = sum(t: x[t] * sin(2 * pi * f * t / len(t)))",
        ),
        "a Fourier transform",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_equations_of_a_line(name: str) -> None:
    lines, words = LINES[name]
    spec = spec_of(*lines, "read: s[0]")
    assert any(words in one for all_of in became(spec).values() for one in all_of), became(spec)
    agrees(spec, SMALL)


MAPS = {
    "kept": ("input taps: real[u, w, c]", f"s[n] = sum(u, w: taps[u, w] * {TAP})", "depthwise"),
    "summed": ("input taps: real[u, w, c, f]", f"s[n] = sum(u, w: {TAP} @ taps[u, w])", "conv2d"),
    "new": (
        "input taps: real[f, u, w]",
        f"s[n, f, c] = sum(u, w: taps[f, u, w] * {TAP})",
        "conv2d",
    ),
    "one coordinate": (
        "input taps: real[u]",
        "s[n] = sum(u: taps[u] * (x[(n.y - u, n.x + 1)] else 0))",
        "conv2d",
    ),
    "least": ("", "s[n] = min(u < 2, w < 3: x[(n.y + u, n.x + w - 1)] else inf)", "minimum"),
}


@pytest.mark.parametrize("name", MAPS)
def test_equations_of_a_map(name: str) -> None:
    given, line, words = MAPS[name]
    lines = ["param height, width: int", MAP, "input x: real[b, n, c]", given, line, "read: s[n]"]
    spec = spec_of(*filter(None, lines), header="pipeline p(x) for n")
    assert any(words in one for one in became(spec)["s"]), became(spec)
    agrees(spec, SMALL, height=2, width=3)


OTHERS = {
    "taps of the row": "s[j] = sum(u < 3: k[j] @ k[u] * (v[j - u] else 0))",
    "a place that is no step": "s[j] = sum(u < 3: (v[j * j - u] else 0))",
    "windows within a sum": "s[j] = sum(l in j: exp(sum(u < 3: v[l - u] else 0)))",
    "another border": "s[j] = sum(u < 3: where(j - u > 1, v[j - u] else 0, 0))",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_window_is_said(name: str) -> None:
    spec = spec_of(OTHERS[name], "read: s[0]")
    said = [one for one in became(spec)["s"] if "conv" in one or "windows" in one]
    assert said == (["a sum over windows (unfold)"] if "within" in name else [])
    agrees(spec, SMALL)


def test_what_is_not_finite_reaches_its_windows_alone() -> None:
    """Nor does a tap of infinity make NaN of rows that it does not reach."""
    spec = spec_of(
        "input taps: real[u], v: real[b, h, i, e]",
        "s[i] = sum(u if u <= i: taps[u] * v[i - u])",
        "read: s[i]",
        header="pipeline p(v) for i",
    )
    v = torch.randn(1, 1, 6, 2, dtype=torch.float64)
    v[0, 0, 4, 0] = torch.nan
    taps = torch.tensor([1.0, -2.0, torch.inf], dtype=torch.float64)
    runs = [Operator(spec, backend)(v, taps=taps) for backend in ("cpu", "eager")]
    torch.testing.assert_close(runs[0], runs[1], equal_nan=True)
    exact = Operator(spec, "cpu").reference(v, taps=taps)
    np.testing.assert_allclose(runs[0].numpy(), exact, rtol=1e-12)
    assert runs[0].shape == v.shape and runs[0][0, 0, :2].isfinite().all()


def test_a_convolution_is_that_of_torch() -> None:
    x, taps = torch.randn(2, 3, 20), torch.randn(5, 3, 3, 3)
    steps = ((4, 2, 3, 2, 1, -1), (5, 3, 3, 2, 1, -1))
    found = correlated(x, taps, (1, 0, 1, 1), steps, torch.float32, True)
    wanted = torch.nn.functional.conv2d(x.reshape(2, 3, 4, 5), taps, stride=2, padding=1)
    torch.testing.assert_close(found.mantissa, wanted.flatten(2))


@pytest.mark.parametrize("how", ["sum", "max"])
def test_windows_of_numbers_with_exponents(how: str) -> None:
    """Those that float32 has, and those that it has not."""
    x, exponents = torch.randn(2, 6), torch.randint(-32, 32, (2, 6)) / 16
    steps = ((6, 4, 3, 1, -1, 3),)
    wanted = plain(pooled(how, Real(x * exponents.exp()), steps, True))
    torch.testing.assert_close(plain(pooled(how, Real(x, exponents), steps, True)), wanted)
    large = pooled(how, Real(x, exponents + 200), steps, True)
    torch.testing.assert_close(large.mantissa * (large.exponent - 200).exp(), wanted)


def test_convolutions_of_numbers_with_exponents() -> None:
    x, exponents, taps = torch.randn(2, 6), torch.randint(-32, 32, (2, 6)) / 16, torch.randn(3)
    call = (taps, (1, 0, 0, 0), ((6, 6, 3, 1, -1, 1),), torch.float32, True)
    wanted = correlated(Real(x * exponents.exp()), *call).mantissa
    torch.testing.assert_close(plain(correlated(Real(x, exponents), *call)), wanted)
    large = correlated(Real(x, exponents + 200), *call)
    torch.testing.assert_close(large.mantissa * (large.exponent - 200).exp(), wanted)


def test_slopes_of_slopes_of_looked_up_rows() -> None:
    table = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    at = torch.tensor([[0, 6], [2, 2], [7, 1], [-1, 3]])

    def run(table: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return bagged(Real(table), 1, at, Real(weights), ((4,), (2,))).mantissa

    assert torch.autograd.gradcheck(run, (table, weights))
    assert torch.autograd.gradgradcheck(run, (table, weights))
    rows = table.detach().numpy()
    wanted = weights.detach()[2, 1].item() * rows[1]  # 7 is no row
    np.testing.assert_allclose(run(table, weights)[2].detach().numpy(), wanted)
