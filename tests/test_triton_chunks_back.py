"""Gradients of recurrences in chunks by Triton's kernels, in its interpreter: against float64
autograd of the eager form, and beside the sequential reverse in float32.

`make test` tries a few recurrences, chosen by the run's seed; all of them are for torture."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from functools import cache
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported anywhere

import numpy as np
import pytest
import torch
import triton_interpreter  # noqa: F401
from attnc.backends.triton import emit
from recurrences import SPECS
from test_scan_gradients import Tensors, error, errors_of, gradients, within
from triton_scans import Pulled, gradients_of_text, spec_of, tensors_of, trained

from attnc.cases import Shape, draw_case
from attnc.front import load_source, read_spec
from attnc.operator import Operator
from attnc.passes.backward import lower_derivative
from attnc.schedule.scans import ReverseScanKernel

# Two blocks of two chunks, the last one not full; heads in groups.
SHAPE = Shape(38, 38, 3, 9, 1, 1, 2)
CHUNKED = (
    "linear_attention", "constant_decay", "gla", "value_decay", "rwkv6", "delta_rule",
    "gated_delta", "rwkv7", "mamba2", "document_reset", "key_heads",
)  # fmt: skip
SOME = 1  # of a run
LOGS = np.array([0.0, -1e-6, -1.0, -13.8, -800.0, -np.inf])


def named(name: str, ending: str) -> Any:
    """A spec of the shelf under a name of its own: what is forced here is forced nowhere else."""
    text = SPECS[name][1].lstrip()
    return read_spec(load_source(text.replace(f"attention {name}", f"attention {name}_{ending}")))


@cache
def kernels(name: str, chunked: bool, **more: int) -> Operator:
    """The operator whose forward and backward are in chunks of 16 rows, or not."""
    op = Operator(named(name, "_".join(("back", str(chunked), *map(str, more.values())))), "triton")
    build = op._run.family.build

    def made(given: Any) -> dict[str, Any]:
        backends: dict[str, Any] = build(given)
        for backend in backends.values():
            backend.forced = {"chunked": chunked, "CHUNK": 16, **more}
        return backends

    op._run.family.build = made
    return op


@cache
def eager(name: str) -> Operator:
    return Operator(spec_of(name), "eager")


def off(name: str, shape: Shape, emit: tuple[str, ...] = (), **given: torch.Tensor) -> float:
    """How far the gradients of a float64 call are from autograd's."""
    case = draw_case(spec_of(name), shape, 3)
    tensors = tensors_of(case, torch.float64) | given
    found = gradients(kernels(name, True), tensors, case, emit)
    assert all(x.isfinite().all() for x in found.values())
    return error(found, gradients(eager(name), tensors, case, emit))


def reversed_scan(name: str) -> tuple[ReverseScanKernel, str]:
    """The reversed scan of a recurrence, and what is said of it."""
    schedule = lower_derivative(spec_of(name)).backward
    kernel = schedule.kernels[0]
    assert isinstance(kernel, ReverseScanKernel)
    return kernel, " ".join(schedule.notes)


@pytest.mark.parametrize("name", CHUNKED)
def test_which_have_a_reverse_in_chunks(name: str) -> None:
    kernel, note = reversed_scan(name)
    assert kernel.chunked is not None and "In chunks too" in note


@pytest.mark.parametrize(
    ("name", "why"),
    [("mamba", "the forward has none"), ("lagged", "k is read at computed places")],
)
def test_why_others_walk_row_by_row(name: str, why: str) -> None:
    kernel, note = reversed_scan(name)
    assert kernel.chunked is None and why in note


@pytest.mark.parametrize("number", range(SOME))
def test_some_are_autograd(number: int, pytestconfig: pytest.Config) -> None:
    rng = random.Random(pytestconfig.option.seed)
    assert off(rng.sample(CHUNKED, len(CHUNKED))[number], SHAPE) < 1e-11


@pytest.mark.torture
@pytest.mark.parametrize("rows", [1, 16, 55, 64, 131])
@pytest.mark.parametrize("name", CHUNKED)
def test_float64_is_autograd(name: str, rows: int) -> None:
    assert off(name, replace(SHAPE, rows=rows, keys=rows, batch=2)) < 1e-11


@pytest.mark.parametrize("rows, batch", [(0, 1), pytest.param(2, 0, marks=pytest.mark.torture)])
def test_nothing_there(rows: int, batch: int) -> None:
    assert off("gated_delta", replace(SHAPE, rows=rows, keys=rows, batch=batch)) < 1e-11


def test_through_first_and_last_states() -> None:
    """Cotangents of the last states, gradients of given first ones; one of them has one width."""
    name = "linear_attention"
    shape = replace(SHAPE, rows=20, keys=20)
    case = draw_case(spec_of(name), shape, 3)
    tensors = tensors_of(case, torch.float64)
    names = tuple(state.array.name for state in spec_of(name).root.states)
    last = eager(name)(**tensors, **case.numbers, emit=names)[1:]
    first = {n: torch.randn_like(x).abs() for n, x in zip(names, last, strict=True)}
    assert off(name, shape, names, **first) < 1e-11


def test_widths_in_parts() -> None:
    """Programs that share the values' width, each with its share of what is folded along it."""
    name, shape = "gla", replace(SHAPE, value_width=20, rows=20, keys=20)
    case = draw_case(spec_of(name), shape, 3)
    tensors = tensors_of(case, torch.float64)
    op = kernels(name, True, BLOCK_E=16)
    found, again = (gradients(op, tensors, case) for _ in range(2))
    assert error(found, gradients(eager(name), tensors, case)) < 1e-11
    assert all(torch.equal(x, again[n]) for n, x in found.items())


@pytest.mark.parametrize(
    "name",
    [
        "gla",
        pytest.param("gated_delta", marks=pytest.mark.torture),
        pytest.param("value_decay", marks=pytest.mark.torture),
    ],
)
def test_decays_of_any_size(name: str) -> None:
    """Decays from 1 down to 0, among rows and channels: in float32 as near as row by row."""
    shape = replace(SHAPE, group=1)
    case = draw_case(spec_of(name), shape, 1)
    tensors = tensors_of(case, torch.float32)
    drawn = np.random.default_rng(5).choice(LOGS, tensors["g"].shape)
    grows = 1 if name == "value_decay" else -1  # of sigmoid(g), of softplus(g)
    tensors["g"] = torch.from_numpy(np.where(drawn == 0.0, 40.0, drawn) * grows).float()
    wanted = gradients(eager(name), {n: t.double() for n, t in tensors.items()}, case)
    mine, theirs = (gradients(kernels(name, chunked), tensors, case) for chunked in (True, False))
    for each, exact in wanted.items():
        assert mine[each].isfinite().all(), each
        found, beside = errors_of(mine[each], exact), errors_of(theirs[each], exact)
        assert within(found, beside, torch.float32), (each, found, beside)


@pytest.mark.torture
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CHUNKED)
def test_error_is_that_of_eager_torch(name: str, dtype: torch.dtype) -> None:
    case = draw_case(spec_of(name), SHAPE, 1)
    tensors = tensors_of(case, dtype)
    exact = {n: t.double() if t.is_floating_point() else t for n, t in tensors.items()}
    wanted = gradients(eager(name), exact, case)
    mine, theirs = (gradients(op, tensors, case) for op in (kernels(name, True), eager(name)))
    for each in wanted:
        found, beside = errors_of(mine[each], wanted[each]), errors_of(theirs[each], wanted[each])
        assert within(found, beside, dtype), (each, found, beside)


# mutants ----------------------------------------------------------------------------------------

# Each breaks one line of the printed kernel, or of the helpers that it calls.
LINES: dict[str, tuple[str, str]] = {
    "none": ("", ""),
    "chunks_forwards": ("back = chunk_count - 1 - at", "back = at"),
    "first_state_of_block": ("tl.load(S_room_at + back", "tl.load(S_room_at + 0"),
    "states_stay": ("if at + 1 < chunk_count:", "if at + 1 < 0:"),
    "nothing_carried": ("S_adjoint = S_adjoint_next\n", "S_adjoint = S_adjoint\n"),
    "level_missed": ("for level in tl.static_range(0, 8):", "for level in tl.static_range(1, 8):"),
    "own_decay": (
        "near = tl.exp(gpu_stretch(log, False, not BEFORE",
        "near = tl.exp(gpu_stretch(log, False, BEFORE",
    ),
    "own_row": (
        "gpu_stretch(earlier, False, False, SIZE, HALF)",
        "gpu_stretch(earlier, False, True, SIZE, HALF)",
    ),
    "log_of_one_side": (
        "return later + gpu_stretch(earlier, False, False, SIZE, HALF)",
        "return later",
    ),
    "solve_forwards": ("inverse = tl.trans(gpu_unit_inverse(", "inverse = (gpu_unit_inverse("),
}
MUTATED = """
attention mutated_chunks(q, k, v) for t:
    input g: real[b, h, t, d], beta: real[b, h, t]
    state S: real[d, e] = 0
    update:
        kept = exp(-softplus(g[t])) * S
        S = kept + sigmoid(beta[t]) * outer(k[t], v[t] - k[t] @ kept)
    read: q[t] @ S
""".lstrip()


@cache
def problem() -> tuple[Pulled, Tensors]:
    """A backward whose forward has run, and its gradients by autograd."""
    spec = read_spec(load_source(MUTATED))
    case = draw_case(spec, replace(SHAPE, group=1), 9)
    tensors = tensors_of(case, torch.float64)
    tensors["k"] /= 2
    tensors["S"] = torch.ones(1, 1, 3, 9, dtype=torch.float64)
    return trained(spec, tensors)


LATER = ("first_state_of_block", "nothing_carried", "own_row", "log_of_one_side")  # for torture


@pytest.mark.parametrize(
    "mutant",
    [pytest.param(n, marks=[pytest.mark.torture] if n in LATER else []) for n in LINES],
)
def test_mutants_die(mutant: str) -> None:
    found, wanted = problem()
    old, new = LINES[mutant]
    text = emit(found.backward)
    at = text.rindex(old)  # the sequential reverse stands before
    text = text[:at] + new + text[at + len(old) :]
    worst = error(gradients_of_text(text, found, chunked=True), wanted)
    assert (worst < 1e-11) == (mutant == "none"), worst
