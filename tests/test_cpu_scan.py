"""Recurrences on the CPU, row by row, against the float64 oracle and eager torch."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from attnc.backends.numpy_oracle import evaluate as oracle
from recurrences import SPECS

from attnc.cases import Shape, draw_case
from attnc.errors import ShapeError
from attnc.front import load_source, read_spec
from attnc.operator import Operator
from attnc.spec import Spec
from attnc.verification import FLOOR, LARGEST_RATIO, relative_errors

# One pair of widths for each operator: kernels are compiled for theirs. Odd ones, a row of several
# registers, groups of heads, no rows, and rows that do not begin at 0.
SHAPE = Shape(11, 11, 5, 19, 2, 2, 2)
CALLS = (SHAPE, replace(SHAPE, rows=1, keys=1, batch=1), replace(SHAPE, rows=0, keys=0))
# Those that meet different parts of the printer; in float32 too.
SINGLE = ("linear_attention", "gated_delta", "mamba", "rg_lru", "running_max", "shift_register")


@cache
def made(name: str) -> tuple[Spec, Operator]:
    spec = read_spec(load_source(SPECS[name][1].lstrip()))
    return spec, Operator(spec, "cpu")


def tensors_of(case: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    given = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in case.tensors.items()}
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in given.items()}


@pytest.mark.parametrize("name", SPECS)
def test_float64_is_the_oracle(name: str) -> None:
    spec, run = made(name)
    for seed, shape in enumerate(CALLS):
        case = draw_case(spec, shape, seed)
        expected = oracle(spec, case.tensors, case.numbers, **case.extras)["out"]
        out = run(**tensors_of(case, torch.float64), **case.numbers, **case.extras)
        np.testing.assert_allclose(out.numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SINGLE)
def test_float32_is_as_near_as_eager_torch(name: str) -> None:
    spec, run = made(name)
    eager = Operator(spec, "eager")
    case = draw_case(spec, replace(SHAPE, rows=70, keys=70), 3)
    tensors = tensors_of(case, torch.float32)
    exact = {n: t.numpy().astype(np.float64) if t.is_floating_point() else t.numpy()
             for n, t in tensors.items()}  # fmt: skip
    expected = oracle(spec, exact, case.numbers, **case.extras)["out"]
    out = run(**tensors, **case.numbers, **case.extras)
    theirs = eager(**tensors, **case.numbers, **case.extras)
    rows = expected.ndim - 1
    mine = relative_errors(out.numpy(), expected, rows)
    other = relative_errors(theirs.numpy(), expected, rows)
    for error, yardstick, floor in zip(mine, other, FLOOR[torch.float32], strict=True):
        assert error <= LARGEST_RATIO * max(yardstick, floor), (mine, other)


def test_strides() -> None:
    """Views with any stride."""
    spec, run = made("constant_decay")
    case = draw_case(spec, SHAPE, 5)
    whole = tensors_of(case, torch.float64)
    turned = {n: t.flip(-1).mT.contiguous().mT if t.ndim > 1 else t for n, t in whole.items()}
    expected = oracle(spec, {n: t.numpy() for n, t in turned.items()}, case.numbers)["out"]
    out = run(**turned)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-10, atol=1e-10)


def test_same_bits_on_any_number_of_threads() -> None:
    spec, run = made("gated_delta")
    case = draw_case(spec, replace(SHAPE, rows=1500, keys=1500), 6)
    tensors = tensors_of(case, torch.float64)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(run(**tensors))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])


def test_a_decay_that_vanishes_forgets() -> None:
    """A log decay of -inf is a reset: no NaN, and what came before is gone."""
    spec, run = made("gla")
    case = draw_case(spec, SHAPE, 7)
    tensors = tensors_of(case, torch.float64)
    tensors["g"][:, :, 6] = torch.inf
    out = run(**tensors)
    again = run(**{n: t[:, :, 6:] for n, t in tensors.items()})
    assert torch.isfinite(out).all()
    assert torch.equal(out[:, :, 6:], again)


def halves(name: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of a call at once, and in two calls, the second from the states of the first."""
    spec, run = made(name)
    case = draw_case(spec, SHAPE, 8)
    tensors = tensors_of(case, dtype)
    moving = {i.name for i in spec.inputs if spec.root.rows[-1].axis in i.array.axes}
    names = tuple(state.array.name for state in spec.root.states)

    def part(begin: int, end: int, **states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = {}
        for each, tensor in tensors.items():
            axes = next(i.array.axes for i in spec.inputs if i.name == each)
            place = axes.index(spec.root.rows[-1].axis) if each in moving else 0
            given[each] = tensor.narrow(place, begin, end - begin) if each in moving else tensor
        found: tuple[torch.Tensor, ...] = run(**given, **states, emit=names)
        return found

    rows = SHAPE.rows
    first, *held = part(0, 4)
    second, *_ = part(4, rows, **dict(zip(names, held, strict=True)))
    whole, *_ = part(0, rows)
    place = spec.root.result.array.axes.index(spec.root.rows[-1].axis)
    return torch.cat([first, second], place), whole


@pytest.mark.parametrize("name", ["gated_delta", "mamba", "running_max", "key_heads", "counts"])
def test_a_call_goes_on_from_the_states_of_another(name: str) -> None:
    found, whole = halves(name, torch.float64)
    torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12)


def test_last_states_are_the_oracles() -> None:
    spec, run = made("linear_attention")
    case = draw_case(spec, SHAPE, 9)
    first = {"S": np.random.default_rng(1).standard_normal((2, 2, 5, 19))}
    expected = oracle(spec, case.tensors, case.numbers, emit=("S", "z"), states=first)
    tensors = tensors_of(case, torch.float64)
    out, *last = run(**tensors, S=torch.from_numpy(first["S"]), emit=("S", "z"))
    for name, found in zip(("out", "S", "z"), (out, *last), strict=True):
        np.testing.assert_allclose(found.numpy(), expected[name], rtol=1e-10, atol=1e-10)


def test_a_state_that_does_not_fit_is_refused_by_name() -> None:
    spec, run = made("gated_delta")
    tensors = tensors_of(draw_case(spec, SHAPE, 10), torch.float64)
    with pytest.raises(ShapeError, match="`S`"):
        run(**tensors, S=torch.zeros(2, 4, 19, 5, dtype=torch.float64))
