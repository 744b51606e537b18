"""Recurrences whose rows combine: which they are, tiles of rows on Triton, shares of rows on the
CPU, and softmax written as a recurrence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import triton_interpreter  # noqa: F401
from attnc.backends.numpy_oracle import evaluate as oracle
from test_scan_gradients import error, gradients
from test_triton_scan_gradients import forced, named
from triton_scans import call_of, run, spec_of, tensors_of

from attnc.cases import Shape, draw_case
from attnc.front import load_source, read_spec
from attnc.operator import Operator
from attnc.passes import lower, scan_gradients
from attnc.passes.backward import lower_derivative
from attnc.schedule.scans import ReverseScanKernel, ScanKernel
from attnc.spec import Spec

# Every entry by itself, and no chunk has products for it.
TILED = (
    "mamba", "min_gru", "rg_lru", "running_max", "three_axes", "two_rows", "short_convolution",
    "exchange",
)  # fmt: skip
SHARED = (
    "linear_attention",
    "constant_decay",
    "gla",
    "mamba",
    "document_reset",
    "short_convolution",
)
WHY = {
    "gated_delta": "the update of S reads it at another place",
    "momentum": "the update of S reads Z too",
    "nonlinear": "the update of S is not affine",
    "counts": "n is no real number",
}
SHAPE = Shape(5, 5, 5, 11, 1, 2, 1)
LONG = Shape(1500, 1500, 16, 19, 1, 1, 1)

SOFTMAX = """
attention softmax_by_rows(q, k, v) for t:
    input q: real[h, d]
    state m: real = -inf, l: real = 0, acc: real[e] = 0
    update:
        s = dot(q, k[t]) * scale
        top = max(m, s)
        acc = exp(m - top) * acc + exp(s - top) * v[t]
        l = exp(m - top) * l + exp(s - top)
        m = top
    read: acc / l
"""
# A maximum that decays, and sums relative to it: xLSTM's.
STABILIZED = """
attention stabilized(q, k, v) for t:
    input f, i: real[b, h, t]
    state m: real = -inf, n: real[d] = 0, C: real[e] = 0
    update:
        kept = -softplus(f[t]) + m
        top = max(kept, i[t])
        n = exp(kept - top) * n + exp(i[t] - top) * k[t]
        C = exp(kept - top) * C + exp(i[t] - top) * v[t]
        m = top
    read: C / max(abs(q[t] @ n), 1)
"""
# Poles that shrink and turn: S4D's, with steps that are positive.
POLES = """
attention poles(x) for t:
    input x: real[b, t, c], rate, turn, C, D: real[c, n], step: real[c]
    state X, Y: real[c, n] = 0
    size = softplus(step)
    update:
        old = X
        X = exp(-size * exp(rate)) * (cos(size * turn) * X - sin(size * turn) * Y) + size * x[t]
        Y = exp(-size * exp(rate)) * (sin(size * turn) * old + cos(size * turn) * Y)
    read: sum(n: C * X - D * Y)
"""
RUNNING_SUMS = """
attention running_sums(q, k, v) for t:
    state S: real[d, e] = 0, z: real[d] = 0, top: real[e] = -inf
    update:
        S = exp(-0.002 * abs(k[t])) * S + outer(k[t], v[t])
        z = 0.999 * z + k[t]
        top = max(top - 0.01, v[t])
    read: (q[t] @ S) + (q[t] @ z) * top
"""
FLOOR = """
attention floor(x) for t:
    input x, rise: real[b, t, c]
    state low: real[c] = inf
    update:
        low = min(low + rise[t], x[t])
    read: low
"""


def kernel_of(spec: Spec) -> ScanKernel:
    (kernel,) = lower(spec).kernels
    assert isinstance(kernel, ScanKernel)
    return kernel


def made(text: str) -> Spec:
    return read_spec(load_source(text.lstrip()))


def test_which_rows_combine() -> None:
    for name in {*TILED, *SHARED, *WHY}:
        kernel = kernel_of(spec_of(name))
        assert (kernel.tiled is not None) == (name in TILED), name
        assert (kernel.shares is not None) or name not in SHARED, name


@pytest.mark.parametrize("name", WHY)
def test_why_rows_do_not_combine(name: str) -> None:
    notes = lower(spec_of(name)).notes
    assert any(note.startswith("Sequential") and WHY[name] in note for note in notes), notes


def test_the_combine_is_said() -> None:
    notes = " ".join(lower(made(SOFTMAX)).notes)
    assert "of m combine to (a2 + a1, max(a2 + b1, b2))" in notes
    assert "of l and acc combine to (a2 * a1, a2 * b1 + b2)" in notes


@pytest.mark.parametrize(
    "text, proved",
    [
        ("sigmoid(x[t])", True),
        ("sigmoid(D) + (1 - sigmoid(D)) * sigmoid(x[t])", True),
        ("sigmoid(D) + (1 - sigmoid(x[t])) * sigmoid(x[t])", False),
        ("1 - 0.5 * exp(-abs(x[t]))", True),
        ("max(sigmoid(x[t]), 0.25)", True),
        ("tanh(x[t])", False),
        ("1.0001 * sigmoid(x[t])", False),
    ],
)
def test_what_lies_between_0_and_1(text: str, proved: bool) -> None:
    spec = made(f"""
attention one(x) for t:
    input x: real[b, t, c], D: real[c]
    state s: real[c] = 0
    update:
        s = ({text}) * s + x[t]
    read: s
""")
    assert (kernel_of(spec).tiled is not None) is proved


# tiles of rows on Triton ------------------------------------------------------------------------


def in_tiles(name: str, shape: Shape, **forced: Any) -> None:
    case = draw_case(spec_of(name), shape, 1)
    call = call_of(name, shape, torch.float64)
    found = run(name, call, frozenset({"out"}), tiled=True, **forced)["out"]
    expected = oracle(spec_of(name), case.tensors, case.numbers, **case.extras)["out"]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", TILED)
def test_tiles_are_the_oracle(name: str) -> None:
    in_tiles(name, replace(SHAPE, rows=19, keys=19), CHUNK=16)


@pytest.mark.torture
@pytest.mark.parametrize("name", TILED)
@pytest.mark.parametrize("rows, chunk", [(0, 16), (1, 16), (129, 16), (129, 64), (257, 32)])
def test_any_tile(name: str, rows: int, chunk: int) -> None:
    in_tiles(name, replace(SHAPE, rows=rows, keys=rows, batch=2), CHUNK=chunk)


def attended(text: str, backend: str, dtype: torch.dtype) -> None:
    """A spec's out in the oracle and on a backend."""
    spec = made(text)
    case = draw_case(spec, replace(SHAPE, rows=21, keys=21), 2)
    found = Operator(spec, backend)(**tensors_of(case, dtype), **case.numbers)
    expected = oracle(spec, case.tensors, case.numbers)["out"]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("text", [STABILIZED, FLOOR])
def test_other_maxima(text: str, backend: str) -> None:
    attended(text, backend, torch.float64)


@pytest.mark.parametrize("backend", ["numpy", "cpu", "triton"])
def test_softmax_is_a_recurrence(backend: str) -> None:
    """Large scores too: no exponential is of more than 0."""
    generator = torch.Generator().manual_seed(5)

    def draw(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=generator, dtype=torch.float64)

    q, k, v = 40 * draw(2, 5), draw(1, 2, 37, 5), draw(1, 2, 37, 7)
    out = Operator(made(SOFTMAX), backend)(q=q, k=k, v=v)
    score = (k @ q[None, :, :, None])[..., 0] * 5**-0.5
    pairs = score[:, :, None, :].expand(1, 2, 37, 37)
    seen = torch.ones(37, 37, dtype=torch.bool).tril()
    wanted = pairs.masked_fill(~seen, -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)


# tiles of rows backwards ------------------------------------------------------------------------


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_gradients, "ROWS", {})
    monkeypatch.setattr(scan_gradients, "FEWEST", 4)


def off_in_tiles(spec: Spec, shape: Shape) -> float:
    """How far gradients of tiles are from autograd's."""
    case = draw_case(spec, shape, 3)
    op = forced(Operator(spec, "triton"), {"tiled": True})
    tensors = tensors_of(case, torch.float64)
    found, wanted = (gradients(one, tensors, case) for one in (op, Operator(spec, "eager")))
    return error(found, wanted)


def test_softmax_backwards(short_blocks: None) -> None:
    spec = named("running_max", "tiled")
    assert off_in_tiles(spec, replace(SHAPE, rows=11, keys=11, key_heads=1)) < 1e-11


def test_poles_that_turn(short_blocks: None) -> None:
    """Two states that see each other: their tiles forwards and backwards."""
    spec = made(POLES)
    assert "of X with Y combine to" in " ".join(lower(spec).notes)
    shape = replace(SHAPE, rows=19, keys=19)
    attended(POLES, "triton", torch.float64)
    assert off_in_tiles(spec, shape) < 1e-11


def test_a_matrix_that_may_grow() -> None:
    notes = lower(made(POLES.replace("size = softplus(step)", "size = step"))).notes
    assert any("no product of the matrices of X and Y grows is not proved" in n for n in notes)


@pytest.mark.torture
@pytest.mark.parametrize("name", [name for name in TILED if name != "short_convolution"])
def test_tiles_backwards(name: str, short_blocks: None) -> None:
    for shape in (replace(SHAPE, rows=11, keys=11), Shape(7, 7, 5, 9, 2, 1, 2)):
        assert off_in_tiles(named(name, "tiled"), shape) < 1e-11


def test_which_backwards_come_in_tiles() -> None:
    for name in ("mamba", "running_max", "short_convolution"):
        kernel = lower_derivative(spec_of(name)).backward.kernels[0]
        assert isinstance(kernel, ReverseScanKernel)
        assert (kernel.tiled is not None) == (name != "short_convolution"), name


# shares of rows on the CPU ----------------------------------------------------------------------


def on_threads(op: Operator, **given: Any) -> Any:
    """A call's results, the same bits however many threads there are."""
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(op(**given))
    torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    return found[0]


def test_shares_are_the_rows_one_after_another() -> None:
    """One instance with more rows than one core is to walk, and in calls of few rows."""
    spec = made(RUNNING_SUMS)
    op, rows, piece = Operator(spec, "cpu"), 1500, 100
    case = draw_case(spec, replace(SHAPE, rows=rows, keys=rows, key_heads=1), 3)
    tensors = tensors_of(case, torch.float64)
    states = tuple(state.array.name for state in spec.root.states)
    found = on_threads(op, **tensors, emit=states)
    parts, held = [], {}
    for begin in range(0, rows, piece):
        given = {n: t.narrow(2, begin, piece) for n, t in tensors.items()}
        part, *last = op(**given, **held, emit=states)
        held = dict(zip(states, last, strict=True))
        parts.append(part)
    wanted = (torch.cat(parts, 2), *held.values())
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    assert not torch.equal(found[0], wanted[0])  # or nothing was shared


def shared(name: str, shape: Shape) -> None:
    case = draw_case(spec_of(name), shape, 3)
    op, tensors = Operator(spec_of(name), "cpu"), tensors_of(case, torch.float64)
    states = tuple(state.array.name for state in spec_of(name).root.states)
    wanted = oracle(spec_of(name), case.tensors, case.numbers, emit=states, **case.extras)
    found = on_threads(op, **tensors, **case.numbers, **case.extras, emit=states)
    for each, one in zip(("out", *states), found, strict=True):
        np.testing.assert_allclose(one.numpy(), wanted[each], rtol=1e-10, atol=1e-10)


@pytest.mark.torture
@pytest.mark.parametrize("name", SHARED)
def test_shares_of_any(name: str) -> None:
    for rows in (1000, 3001):
        shared(name, replace(LONG, rows=rows, keys=rows))
