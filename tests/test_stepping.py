"""Recurrences row by row: states in and out, on operators and written modules."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recurrences import SPECS
from test_cpu_scan import SHAPE, made, tensors_of

from attnc.cases import draw_case
from attnc.compiler import emit_module, load_module
from attnc.errors import ArgumentUnknown, ShapeError, UnsupportedError, ValueRangeError
from attnc.front import load_source, read_spec
from attnc.operator import Operator
from attnc.spec import Spec

Tensors = dict[str, torch.Tensor]
# Equations at other rows, an `else` that is no number, a lag that a param decides, other inputs'
# firsts, and more lags of one input.
LAGS = """
attention lags(x) for t:
    param back: int = 2
    axis u < 2
    input x: real[b, t, c], mix: real[t, c], w: real[u, c], first: real[b, c]
    state s: real[c] = first
    z[t] = sum(u: w[u] * (x[t - u] else 1)) * mix[t]
    shifted[t] = z[t - 1] else x[t]
    update:
        s = 0.5 * s + shifted[t] * (z[t - back] else -1) + where(t >= 3, x[max(t - 3, 0)], 0)
    read: s + (shifted[t - 1] else 2)
"""


def call_of(name: str, seed: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Spec, Tensors]:
    spec, _ = made(name)
    return spec, tensors_of(draw_case(spec, SHAPE, seed), dtype)


def place_of_time(spec: Spec, name: str) -> int | None:
    axis = spec.root.rows[-1].axis
    axes = next(one.array.axes for one in spec.inputs if one.array.name == name)
    return axes.index(axis) if axis in axes else None


def part(spec: Spec, tensors: Tensors, begin: int, end: int) -> Tensors:
    """Some rows of a call."""
    found = {}
    for name, tensor in tensors.items():
        place = place_of_time(spec, name)
        found[name] = tensor if place is None else tensor.narrow(place, begin, end - begin)
    return found


def row(spec: Spec, tensors: Tensors, at: int) -> Tensors:
    """One row of a call, without the axis of time."""
    found = {}
    for name, tensor in tensors.items():
        place = place_of_time(spec, name)
        found[name] = tensor if place is None else tensor.select(place, at)
    return found


def stepped(op: Any, spec: Spec, tensors: Tensors) -> tuple[torch.Tensor, Any]:
    state, rows = None, []
    for at in range(SHAPE.rows):
        out, state = op.step(state, **row(spec, tensors, at), offset=at)
        rows.append(out)
    place = spec.root.result.array.axes.index(spec.root.rows[-1].axis)
    return torch.stack(rows, place), state


def lags(backend: str) -> tuple[Spec, Tensors, Operator]:
    spec = read_spec(load_source(LAGS.lstrip()))
    tensors = tensors_of(draw_case(spec, SHAPE, 5), torch.float64)
    return spec, tensors, Operator(spec, backend)


@pytest.mark.parametrize("name", SPECS)
def test_steps_are_the_rows_of_a_call(name: str) -> None:
    (spec, tensors), (_, op) = call_of(name), made(name)
    whole, last = op(**tensors, return_state=True)
    out, state = stepped(op, spec, tensors)
    torch.testing.assert_close(out, whole, rtol=1e-12, atol=1e-12)
    assert type(state) is tuple
    for one, other in zip(state, last, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["linear_attention", "min_gru"])
def test_a_call_goes_on_from_states_by_place_or_name(name: str) -> None:
    (spec, tensors), (_, op) = call_of(name), made(name)
    whole, last = op(**tensors, return_state=True)
    begin, held = op(**part(spec, tensors, 0, 4), return_state=True)
    named = dict(zip((state.array.name for state in spec.root.states), held, strict=True))
    place = spec.root.result.array.axes.index(spec.root.rows[-1].axis)
    for state in (held, named):
        end, after = op(**part(spec, tensors, 4, SHAPE.rows), state=state, return_state=True)
        torch.testing.assert_close(torch.cat([begin, end], place), whole)
        assert type(after) is type(state)
        values = after.values() if isinstance(after, dict) else after
        for one, other in zip(values, last, strict=True):
            torch.testing.assert_close(one, other)


def test_eager_and_numpy_have_the_same_modes() -> None:
    (spec, tensors), (_, op) = call_of("gated_delta"), made("gated_delta")
    whole, (last,) = op(**tensors, return_state=True)
    for backend in ("eager", "numpy"):
        other = Operator(spec, backend)
        out, (state,) = other(**tensors, return_state=True)
        torch.testing.assert_close(out, whole)
        torch.testing.assert_close(state, last)
        out, (state,) = stepped(other, spec, tensors)
        torch.testing.assert_close(out, whole)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    out, (state,) = op.step(None, **{n: x[:, :, 0] for n, x in arrays.items()})
    assert isinstance(state, np.ndarray)
    np.testing.assert_allclose(out, whole[:, :, 0])


def test_gradients_flow_through_steps() -> None:
    (spec, tensors), (_, op) = call_of("gated_delta"), made("gated_delta")
    v = tensors["v"].clone().requires_grad_()
    out, (state,) = op(**{**tensors, "v": v}, return_state=True)
    (wanted,) = torch.autograd.grad(out.sum() + (state**2).sum(), v)
    out, (state,) = stepped(op, spec, {**tensors, "v": v})
    (found,) = torch.autograd.grad(out.sum() + (state**2).sum(), v)
    torch.testing.assert_close(found, wanted)


def test_under_torch_compile() -> None:
    (spec, tensors), (_, op) = call_of("gated_delta"), made("gated_delta")

    def two(first: Tensors, second: Tensors) -> Any:
        _, state = op.step(None, **first)
        return op.step(state, **second)

    rows = row(spec, tensors, 0), row(spec, tensors, 1)
    compiled = torch.compile(two, fullgraph=True, backend="aot_eager")
    out, (state,) = compiled(*rows)
    wanted, (last,) = two(*rows)
    assert torch.equal(out, wanted) and torch.equal(state, last)


def test_rows_before_under_torch_compile() -> None:
    """The form that goes on is made by the first call outside of a graph."""
    spec, tensors, op = lags("cpu")
    rows = [row(spec, tensors, at) for at in range(2)]

    def two(first: Tensors, second: Tensors) -> Any:
        _, state = op.step(None, **first)
        return op.step(state, **second, offset=1)[0]

    wanted = two(*rows)
    assert torch.equal(torch.compile(two, fullgraph=True, backend="aot_eager")(*rows), wanted)


def test_a_written_module_steps(tmp_path: Path) -> None:
    spec, tensors = call_of("min_gru")
    module = load_module(emit_module(spec), "stepping_min_gru")
    whole, last = module.min_gru(tensors["x"], z=tensors["z"], first=tensors["first"],
                                 return_state=True)  # fmt: skip
    out, state = stepped(module, spec, tensors)
    torch.testing.assert_close(out, whole)
    torch.testing.assert_close(state, last)
    again, _ = module.min_gru(tensors["x"], z=tensors["z"], first=tensors["first"], state=last,
                              return_state=True)  # fmt: skip
    assert not torch.equal(again, whole)


@pytest.mark.parametrize("backend", ["numpy", "eager", "cpu", "triton"])
def test_a_state_holds_the_rows_that_are_read_again(backend: str) -> None:
    """Split anywhere, by place and by name; the last pieces row by row."""
    spec, tensors, op = lags(backend)
    whole = op.reference(**{name: one.numpy() for name, one in tensors.items()})
    splits = range(1, SHAPE.rows) if backend == "cpu" else (2,)
    for split in splits:
        begin, state = op(**part(spec, tensors, 0, split), return_state=True)
        assert state[1].shape == (SHAPE.batch, min(split, 3), SHAPE.width)  # x, t - 2 - 1 at most
        assert state[2].shape == (min(split, 2), SHAPE.width)  # mix
        rows = [begin]
        if split == 3:
            state = dict(zip(("s", "x", "mix"), state, strict=True))
        for at in range(split, SHAPE.rows if backend == "cpu" else 5):
            out, state = op.step(state, **row(spec, tensors, at), offset=at)
            rows.append(out[:, None])
        found = torch.cat(rows, 1)
        np.testing.assert_allclose(found, whole[:, : found.shape[1]], rtol=1e-12, atol=1e-12)


def test_gradients_flow_through_rows_before() -> None:
    spec, tensors, op = lags("cpu")
    x = tensors["x"].clone().requires_grad_()
    out, state = op(**{**tensors, "x": x}, return_state=True)
    (wanted,) = torch.autograd.grad((out**2).sum() + (state[0] ** 2).sum(), x)
    moved = {**tensors, "x": x}
    begin, state = op(**part(spec, moved, 0, 4), return_state=True)
    rest = part(spec, moved, 4, SHAPE.rows)
    end, last = op(**rest, state=state, return_state=True, offset=4)
    loss = (begin**2).sum() + (end**2).sum() + (last[0] ** 2).sum()
    (found,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(found, wanted)


def test_a_written_module_holds_rows() -> None:
    spec, tensors, op = lags("cpu")
    module = load_module(emit_module(spec), "stepping_lags")
    whole, last = op(**tensors, return_state=True)
    out, state = stepped(module, spec, tensors)
    torch.testing.assert_close(out, whole)
    for one, other in zip(state, last, strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(UnsupportedError, match="dense formula of a module"):
        module.reference(**tensors, state=last)


@pytest.mark.parametrize("read", ["x[0]", "sum(a in t if a <= t: x[a])", "x[t + 1] else 0"])
def test_rows_without_a_bound_are_no_step(read: str) -> None:
    text = f"""
attention unbounded(x) for t:
    input x: real[b, t, c]
    state s: real[c] = 0
    update:
        s = s + x[t]
    read: s + ({read})
"""
    op = Operator(read_spec(load_source(text.lstrip())), "eager")
    x = torch.randn(1, 4, 2)
    _, state = op(x, return_state=True)
    with pytest.raises(UnsupportedError, match=r"a step: x\[.*carry that in a state"):
        op.step(None, x[:, 0])
    with pytest.raises(UnsupportedError):
        op(x, state=state)


def test_wrong_rows_before_are_refused() -> None:
    _, tensors, op = lags("eager")
    _, (s, x, mix) = op(**tensors, return_state=True)
    with pytest.raises(ShapeError, match=r"`x`.*rows before as \[\d, up to 3, \d\]"):
        op(**tensors, state=(s, x[:1], mix))
    with pytest.raises(ValueRangeError, match=r"the 3 parts \(s, x, mix\)"):
        op(**tensors, state=(s,))


def test_wrong_states_are_refused() -> None:
    (_, tensors), (_, op) = call_of("linear_attention"), made("linear_attention")
    _, (S, z) = op(**tensors, return_state=True)
    with pytest.raises(ValueRangeError, match=r"the 2 parts \(S, z\)"):
        op(**tensors, state=(S,))
    with pytest.raises(ArgumentUnknown, match="`s`"):
        op(**tensors, state={"s": S, "z": z})
    with pytest.raises(ArgumentUnknown, match="by name and in `state`"):
        op(**tensors, state=(S, z), S=S)
    with pytest.raises(ValueRangeError, match="one row"):
        op.step((S, z), **tensors)
    with pytest.raises(ValueRangeError, match="return_state"):
        op(**tensors, return_state=1)


def test_a_step_costs_the_same_at_any_position() -> None:
    """And holds nothing but the states: their size does not grow."""
    (spec, tensors), (_, op) = call_of("gated_delta"), made("gated_delta")
    first = row(spec, tensors, 0)
    _, state = op.step(None, **first)
    sizes = [one.shape for one in state]

    def cost(offset: int) -> float:
        begin = time.process_time()
        for _ in range(300):
            op.step(state, **first, offset=offset)
        return time.process_time() - begin

    cost(0)
    near, far = (min(cost(offset) for _ in range(3)) for offset in (0, 1_000_000))
    assert far < 1.5 * near
    _, state = op.step(state, **first, offset=1_000_000)
    assert [one.shape for one in state] == sizes


def test_places_are_those_of_the_header() -> None:
    """Whichever of q, k and v the body declares anew: by place and by name is one call."""
    text = """
attention places(q, k, v) for t:
    input v: real[b, h, t, e], k: real[b, h, t, d]
    state S: real[d, e] = 0
    update:
        S = S + outer(k[t], v[t])
    read: q[t] @ S
"""
    spec = read_spec(load_source(text.lstrip()))
    op = Operator(spec, "eager")
    q, k, v = torch.randn(3, 1, 2, 5, 3, dtype=torch.float64)
    assert [one.name for one in spec.inputs if one.positional] == ["q", "k", "v"]
    assert torch.equal(op(q, k, v), op(v=v, k=k, q=q))
