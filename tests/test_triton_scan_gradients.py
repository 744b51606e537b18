"""Gradients of recurrences by Triton's kernels, in its interpreter: against float64 autograd of the
eager form. Blocks are of two rows here, so that a few rows lie in several.

`make test` tries a few recurrences, chosen by the run's seed; all of them are for torture."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported anywhere

import pytest
import torch
import triton_interpreter  # noqa: F401
from attnc.backends.triton import emit
from recurrences import SPECS
from test_scan_gradients import Tensors, error, errors_of, gradients, within
from triton_cases import load
from triton_scans import Pulled, call_of, gradients_of_text, pulled, spec_of, tensors_of, trained

from attnc.cases import Shape, draw_case
from attnc.front import load_source, read_spec
from attnc.operator import Operator
from attnc.passes import scan_gradients
from attnc.runtime.triton_launch import TritonBackend
from attnc.verification import larger, neighbours

# Odd widths, one in two parts; two blocks, the last one not full.
SHAPE = Shape(3, 3, 3, 9, 1, 1, 1)
GROUPED = replace(SHAPE, group=2)
MOST = 3  # recurrences of a run


@pytest.fixture(autouse=True, scope="module")
def short_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_gradients, "ROWS", {})
        patch.setattr(scan_gradients, "FEWEST", 2)
        yield


def forced(op: Operator, constants: dict[str, Any]) -> Operator:
    """The operator, its backward with parts of widths that the planner would not choose."""
    family = op._run.family
    build = family.build

    def made(kernels: Any) -> dict[str, Any]:
        backends: dict[str, Any] = build(kernels)
        for backend in backends.values():
            if any(kernel["kind"] == "scan_back" for kernel in backend.table["kernels"]):
                backend.forced = constants
        return backends

    family.build = made
    return op


def named(name: str, ending: str) -> Any:
    """A spec of the shelf under a name of its own: its blocks are not those of others."""
    text = SPECS[name][1].lstrip()
    return read_spec(load_source(text.replace(f"attention {name}", f"attention {name}_{ending}")))


@cache
def operators(name: str) -> tuple[Operator, Operator]:
    """The kernels and the dense form."""
    spec = named(name, "blocks")
    return Operator(spec, "triton"), Operator(spec, "eager")


def off(name: str, shape: Shape, emit: tuple[str, ...] = (), **given: torch.Tensor) -> float:
    """How far the gradients of a float64 call are from autograd's."""
    case = draw_case(spec_of(name), shape, 3)
    tensors = tensors_of(case, torch.float64) | given
    found, wanted = (gradients(op, tensors, case, emit) for op in operators(name))
    assert all(x.isfinite().all() for x in found.values()) or name == "both_sides"
    return error(found, wanted)


@pytest.mark.parametrize("number", range(MOST))
def test_gradients_of_some(number: int, pytestconfig: pytest.Config) -> None:
    rng = random.Random(pytestconfig.option.seed)
    assert off(rng.sample(list(SPECS), len(SPECS))[number], SHAPE) < 1e-11


@pytest.mark.torture
@pytest.mark.parametrize("name", SPECS)
def test_float64_is_autograd(name: str) -> None:
    for shape in (SHAPE, replace(GROUPED, rows=7, keys=7, batch=2, width=5)):
        assert off(name, shape) < 1e-11


@pytest.mark.parametrize("rows, batch", [(0, 1), (1, 2), (2, 0)])
def test_lengths(rows: int, batch: int) -> None:
    """Heads in groups, over which gradients of keys are summed."""
    assert off("gated_delta", replace(GROUPED, rows=rows, keys=rows, batch=batch)) < 1e-11


@pytest.mark.torture
@pytest.mark.parametrize("rows", [17, 257])
@pytest.mark.parametrize("name", ["gated_delta", "mamba2", "key_heads", "min_gru"])
def test_long_sequences(name: str, rows: int) -> None:
    assert off(name, replace(GROUPED, rows=rows, keys=rows)) < 1e-11


@pytest.mark.parametrize(
    "name, blocks",
    [
        ("gla", {"BLOCK_D": 2, "BLOCK_E": 4}),
        ("mamba", {"BLOCK_C": 2}),
        ("short_convolution", {"BLOCK_C": 2}),
    ],
)
def test_widths_in_parts(name: str, blocks: dict[str, int]) -> None:
    """Programs that share widths, each with its share of what is folded along them."""
    spec = named(name, "parts")
    case = draw_case(spec, SHAPE, 3)
    tensors = tensors_of(case, torch.float64)
    op = forced(Operator(spec, "triton"), blocks)
    found, again = (gradients(op, tensors, case) for _ in range(2))
    assert error(found, gradients(Operator(spec, "eager"), tensors, case)) < 1e-11
    assert all(torch.equal(x, again[n]) for n, x in found.items())


@pytest.mark.parametrize("name", ["linear_attention", "running_max"])
def test_through_first_and_last_states(name: str) -> None:
    """Cotangents of the last states, gradients of given first ones."""
    names = tuple(state.array.name for state in spec_of(name).root.states)
    case = draw_case(spec_of(name), SHAPE, 3)
    tensors = tensors_of(case, torch.float64)
    last = operators(name)[1](**tensors, **case.numbers, emit=names)[1:]
    torch.manual_seed(4)
    first = {n: torch.randn_like(x).abs() for n, x in zip(names, last, strict=True)}
    assert off(name, SHAPE, names, **first) < 1e-11


def test_strides() -> None:
    """Every second entry of memory, the others NaN; a batch that is one array."""
    case = draw_case(spec_of("gated_delta"), replace(SHAPE, batch=2), 3)
    room = {}
    for name, tensor in tensors_of(case, torch.float64).items():
        wide = torch.full((*tensor.shape, 2), torch.nan, dtype=tensor.dtype)
        wide[..., 1] = tensor
        room[name] = wide[..., 1]
    room["k"] = room["k"][:1].expand(room["k"].shape)
    assert off("gated_delta", replace(SHAPE, batch=2), **room) < 1e-11


@pytest.mark.parametrize("name, gone", [("gla", torch.inf), ("value_decay", -torch.inf)])
def test_a_reset_ends_gradients(name: str, gone: float) -> None:
    """A log decay of -inf: nothing flows to the rows before, and nothing is NaN."""
    case = draw_case(spec_of(name), SHAPE, 7)
    tensors = tensors_of(case, torch.float64)
    tensors["g"][:, :, 2] = gone
    leaves = {n: t.clone().requires_grad_() for n, t in tensors.items()}
    operators(name)[0](**leaves)[:, :, 2:].sum().backward()
    for each, leaf in leaves.items():
        assert leaf.grad is not None and leaf.grad.isfinite().all(), each
    assert not leaves["v"].grad[:, :, :2].any()  # type: ignore[index]


def test_chunks_keep_the_states_that_rows_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward of a training call may run in chunks: each begins where a state is kept."""
    monkeypatch.setattr(scan_gradients, "FEWEST", 16)
    call = call_of("gated_delta", replace(SHAPE, rows=37, keys=37), torch.float64)
    found = pulled(spec_of("gated_delta"), call.tensors)
    names = tuple(output.name for output in found.first.signature.outputs)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        module = load(found.forward, Path(folder))
        for chunked in (True, False):
            backend = TritonBackend(module.TRITON_KERNELS, vars(module))
            backend.forced = {"chunked": chunked, "CHUNK": 16}
            runs.append(dict(zip(names, backend(found.first, frozenset(names)), strict=True)))
    assert runs[0]["saved_S"].shape[2] == 3
    for name, tensor in runs[0].items():
        torch.testing.assert_close(tensor, runs[1][name], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("gated_delta", torch.float32), ("running_max", torch.float32), ("mamba", torch.bfloat16)],
)
def test_error_beside_eager_torch(name: str, dtype: torch.dtype) -> None:
    spec, shape = spec_of(name), replace(SHAPE, rows=6, keys=6)
    case = draw_case(spec, shape, 3)
    tensors = tensors_of(case, dtype)
    mine, theirs = beside(name, tensors, case)
    if not all(within(mine[each], theirs[each], dtype) for each in mine):  # a hard row: see verify
        for near in neighbours(tensors, spec, 4):
            mine, theirs = map(larger, (mine, theirs), beside(name, near, case))
    for each in mine:
        assert within(mine[each], theirs[each], dtype), (each, mine[each], theirs[each])


def beside(name: str, tensors: dict[str, torch.Tensor], case: Any) -> tuple[Any, Any]:
    """The errors of a call's gradients and of eager torch's in the same dtype, by input."""
    run, eager = operators(name)
    exact = {n: t.double() if t.is_floating_point() else t for n, t in tensors.items()}
    wanted = gradients(eager, exact, case)
    both = [gradients(form, tensors, case) for form in (run, eager)]
    mine, theirs = ({n: errors_of(one[n], x) for n, x in wanted.items()} for one in both)
    return mine, theirs


def test_second_order() -> None:
    """The gradient of a gradient, of a recurrence whose programs share widths."""
    case = draw_case(spec_of("gla"), SHAPE, 5)
    tensors = tensors_of(case, torch.float64)
    found = []
    for op in operators("gla"):
        leaves = {name: tensors[name].clone().requires_grad_() for name in ("g", "v")}
        out = op(**{**tensors, **leaves})
        (once,) = torch.autograd.grad((out**2).sum(), leaves["g"], create_graph=True)
        found.append(torch.autograd.grad((once**2).sum(), list(leaves.values())))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


# mutants ----------------------------------------------------------------------------------------

# Each breaks one line of the printed kernel: the order of rows, the states of a block, shares,
# what is carried, what the initial states give.
LINES: dict[str, tuple[str, str]] = {
    "none": ("", ""),
    "rows_forwards": ("back = row_count - 1 - at", "back = at"),
    "blocks_forwards": ("// 2) - 1 - step", "// 2) * 0 + step"),
    "first_state_of_block": (
        "S_before = tl.load(S_room_at + back",
        "S_before = tl.load(S_room_at + 0",
    ),
    "state_after_stays": ("S = S_before", "S = S"),
    "row_of_another": (
        "t_row_1 = tl.full([], 0, tl.int64) + (first_row + back)",
        "t_row_1 = t_row",
    ),
    "one_share": ("e_part * g_grad_share", "0 * g_grad_share"),
    "nothing_absorbed": ("S_adjoint = S_adjoint_next\n", "S_adjoint = S_adjoint\n"),
    "nothing_carried": ("S_adjoint = S_adjoint_next_1\n", "S_adjoint = S_adjoint\n"),
    "no_first_state": ("S_sum = S_sum_next\n", "S_sum = S_sum\n"),
}
# The state before a row and that after it are both read on the way back.
MUTATED = """
attention mutated(q, k, v) for t:
    input g: real[b, h, t]
    state S: real[d, e] = 0
    update:
        S = tanh(exp(-softplus(g[t])) * S + outer(k[t], v[t]))
    read: tanh(q[t] @ S)
""".lstrip()


@cache
def problem() -> tuple[Pulled, Tensors]:
    """A backward whose forward has run, and its gradients by autograd."""
    spec = read_spec(load_source(MUTATED))
    case = draw_case(spec, SHAPE, 9)
    tensors = tensors_of(case, torch.float64)
    tensors["S"] = torch.ones(1, 1, 3, 9, dtype=torch.float64)
    return trained(spec, tensors)


@pytest.mark.parametrize("mutant", LINES)
def test_mutants_die(mutant: str) -> None:
    found, wanted = problem()
    old, new = LINES[mutant]
    text = emit(found.backward)
    assert old in text
    text = text.replace(old, new, 1) if old else text
    worst = error(gradients_of_text(text, found), wanted)
    assert (worst < 1e-11) == (mutant == "none"), worst
