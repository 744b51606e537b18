"""Recurrences on the CPU, row by row, against the float64 oracle and eager torch."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from attnc.backends.cpu import emit
from attnc.backends.numpy_oracle import evaluate as oracle
from gallery_cases import defaults
from recurrences import SPECS
from triton_cases import bind

from attnc.cases import Shape, draw_case
from attnc.front import load_source, read_spec
from attnc.operator import Operator
from attnc.passes import lower
from attnc.runtime.cpu_build import CpuBackend
from attnc.schedule import Schedule
from attnc.spec import Spec
from attnc.verification import FLOOR, LARGEST_RATIO, relative_errors

WANTED = frozenset(("out",))
# One pair of widths for each operator: kernels are compiled for theirs. Odd ones, a row of several
# registers, groups of heads, no rows, and rows that do not begin at 0.
SHAPE = Shape(11, 11, 5, 19, 2, 2, 2)
CALLS = (SHAPE, replace(SHAPE, rows=1, keys=1, batch=1), replace(SHAPE, rows=0, keys=0))
# Those that meet different parts of the printer; in float32 too.
SINGLE = ("linear_attention", "gated_delta", "mamba", "rg_lru", "running_max", "shift_register")


@cache
def made(name: str) -> tuple[Spec, Schedule, CpuBackend]:
    spec = read_spec(load_source(SPECS[name][1].lstrip()))
    schedule = lower(spec)
    return spec, schedule, CpuBackend(emit(schedule))


def tensors_of(case: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    given = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in case.tensors.items()}
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in given.items()}


@pytest.mark.parametrize("name", SPECS)
def test_float64_is_the_oracle(name: str) -> None:
    spec, schedule, backend = made(name)
    for seed, shape in enumerate(CALLS):
        case = draw_case(spec, shape, seed)
        expected = oracle(spec, case.tensors, case.numbers, **case.extras)["out"]
        numbers = {**defaults(spec), **case.numbers}
        call = bind(schedule, tensors_of(case, torch.float64), numbers, **case.extras)
        out = backend(call, WANTED)[0]
        assert out is not None
        np.testing.assert_allclose(out.numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SINGLE)
def test_float32_is_as_near_as_eager_torch(name: str) -> None:
    spec, schedule, backend = made(name)
    eager = Operator(spec, "eager")
    case = draw_case(spec, replace(SHAPE, rows=70, keys=70), 3)
    tensors = tensors_of(case, torch.float32)
    exact = {n: t.numpy().astype(np.float64) if t.is_floating_point() else t.numpy()
             for n, t in tensors.items()}  # fmt: skip
    expected = oracle(spec, exact, case.numbers, **case.extras)["out"]
    out = backend(bind(schedule, tensors, case.numbers, **case.extras), WANTED)[0]
    theirs = eager(**tensors, **case.numbers, **case.extras)
    assert out is not None
    rows = expected.ndim - 1
    mine = relative_errors(out.numpy(), expected, rows)
    other = relative_errors(theirs.numpy(), expected, rows)
    for error, yardstick, floor in zip(mine, other, FLOOR[torch.float32], strict=True):
        assert error <= LARGEST_RATIO * max(yardstick, floor), (mine, other)


def test_strides_and_dtypes() -> None:
    """Views with any stride, and bfloat16 in and out."""
    spec, schedule, backend = made("constant_decay")
    case = draw_case(spec, SHAPE, 5)
    whole = tensors_of(case, torch.float64)
    turned = {n: t.flip(-1).mT.contiguous().mT if t.ndim > 1 else t for n, t in whole.items()}
    expected = oracle(spec, {n: t.numpy() for n, t in turned.items()}, case.numbers)["out"]
    out = backend(bind(schedule, turned, case.numbers), WANTED)[0]
    assert out is not None
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-10, atol=1e-10)


def test_same_bits_on_any_number_of_threads() -> None:
    spec, schedule, backend = made("gated_delta")
    case = draw_case(spec, replace(SHAPE, rows=40, keys=40), 6)
    call = bind(schedule, tensors_of(case, torch.float64), case.numbers)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(backend(call, WANTED)[0])
    torch.set_num_threads(before)
    assert found[0] is not None and found[1] is not None
    assert torch.equal(found[0], found[1])


def test_a_decay_that_vanishes_forgets() -> None:
    """A log decay of -inf is a reset: no NaN, and what came before is gone."""
    spec, schedule, backend = made("gla")
    case = draw_case(spec, SHAPE, 7)
    tensors = tensors_of(case, torch.float64)
    tensors["g"][:, :, 6] = torch.inf
    out = backend(bind(schedule, tensors, case.numbers), WANTED)[0]
    late = {n: t[:, :, 6:] for n, t in tensors.items()}
    again = backend(bind(schedule, late, case.numbers), WANTED)[0]
    assert out is not None and again is not None
    assert torch.isfinite(out).all()
    assert torch.equal(out[:, :, 6:], again)
