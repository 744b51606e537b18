"""Gradients of recurrences on the CPU against float64 autograd of the eager form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from recurrences import SPECS
from test_cpu_scan import SHAPE, made, tensors_of

from attnc.cases import draw_case
from attnc.expressions.tree import call, number
from attnc.front import load_source, read_spec
from attnc.operator import Operator
from attnc.passes import backward
from attnc.passes.scan_gradients import ScanDerivative
from attnc.passes.scan_inputs import own
from attnc.schedule.scans import ReverseScanKernel
from attnc.verification import FLOOR, LARGEST_RATIO, Errors, larger, neighbours, relative_errors

Tensors = dict[str, torch.Tensor]
# More rows than a block of any state has, and none; both_sides explodes over so many.
LONG = replace(SHAPE, rows=135, keys=135, batch=1)
LENGTHS = {"both_sides": (SHAPE,)}
SINGLE = ("linear_attention", "gated_delta", "mamba", "rg_lru", "running_max", "momentum")


@cache
def eager(name: str) -> Operator:
    return Operator(made(name)[0], "eager")


def gradients(op: Any, tensors: Tensors, case: Any, emit: tuple[str, ...] = ()) -> Tensors:
    """The gradient of each real input under random cotangents of every real output."""
    leaves = {n: t.detach().clone() for n, t in tensors.items()}
    smooth = [n for n, t in leaves.items() if t.is_floating_point()]
    for name in smooth:
        leaves[name].requires_grad_()
    found = op(**leaves, **case.numbers, **case.extras, emit=emit)
    outputs = [x for x in (found if emit else (found,)) if x.is_floating_point()]
    torch.manual_seed(0)
    loss = sum((x * torch.randn(x.shape, dtype=torch.float64)).double().sum() for x in outputs)
    if not loss.requires_grad:
        return {name: torch.zeros_like(tensors[name]) for name in smooth}
    grads = torch.autograd.grad(loss, [leaves[n] for n in smooth], allow_unused=True)
    pairs = zip(smooth, grads, strict=True)
    return {n: torch.zeros_like(tensors[n]) if g is None else g for n, g in pairs}


def error(found: Tensors, wanted: Tensors) -> float:
    """The largest error, relative to the largest entry of all gradients; NaN counts."""
    size = max((x.abs().max().item() for x in wanted.values() if x.numel()), default=0.0) or 1.0
    errors = [(found[n] - x).abs().max().item() / size for n, x in wanted.items() if x.numel()]
    return max(errors, default=0.0)


@pytest.mark.parametrize("name", SPECS)
def test_float64_is_autograd(name: str) -> None:
    spec, run = made(name)
    for shape in LENGTHS.get(name, (SHAPE, replace(SHAPE, rows=0, keys=0), LONG)):
        case = draw_case(spec, shape, 3)
        tensors = tensors_of(case, torch.float64)
        assert error(gradients(run, tensors, case), gradients(eager(name), tensors, case)) < 1e-11


@pytest.mark.parametrize("name", ["linear_attention", "key_heads", "min_gru", "running_max"])
def test_through_first_and_last_states(name: str) -> None:
    """Cotangents of the last states, gradients of given first ones."""
    spec, run = made(name)
    case = draw_case(spec, SHAPE, 4)
    tensors = tensors_of(case, torch.float64)
    names = tuple(state.array.name for state in spec.root.states)
    last = run(**tensors, **case.numbers, emit=names)[1:]
    if name != "min_gru":  # its first state is an input of another name
        tensors |= {n: torch.randn_like(x).abs() for n, x in zip(names, last, strict=True)}
    found = gradients(run, tensors, case, names)
    assert error(found, gradients(eager(name), tensors, case, names)) < 1e-11


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float32) for name in SINGLE), ("mamba", torch.bfloat16)],
)
def test_error_beside_eager_torch(name: str, dtype: torch.dtype) -> None:
    spec, run = made(name)
    case = draw_case(spec, replace(SHAPE, rows=70, keys=70), 3)
    tensors = tensors_of(case, dtype)
    mine, theirs = beside(name, run, tensors, case)
    if not all(within(mine[each], theirs[each], dtype) for each in mine):  # a hard row: see verify
        for near in neighbours(tensors, spec, 8):
            mine, theirs = map(larger, (mine, theirs), beside(name, run, near, case))
    for each in mine:
        assert within(mine[each], theirs[each], dtype), (each, mine[each], theirs[each])


def beside(name: str, run: Any, tensors: Tensors, case: Any) -> tuple[Errors, Errors]:
    """The errors of a call's gradients and of eager torch's in the same dtype, by input."""
    exact = {n: t.double() if t.is_floating_point() else t for n, t in tensors.items()}
    wanted = gradients(eager(name), exact, case)
    both = [gradients(form, tensors, case) for form in (run, eager(name))]
    mine, theirs = ({n: errors_of(one[n], x) for n, x in wanted.items()} for one in both)
    return mine, theirs


def errors_of(found: torch.Tensor, wanted: torch.Tensor) -> tuple[float, float]:
    return relative_errors(found.double().numpy(), wanted.numpy(), wanted.ndim - 1)


def within(mine: tuple[float, float], yardstick: tuple[float, float], dtype: torch.dtype) -> bool:
    pairs = zip(mine, yardstick, FLOOR[dtype], strict=True)
    return all(one <= LARGEST_RATIO * max(other, floor) for one, other, floor in pairs)


def test_same_bits_on_any_number_of_threads() -> None:
    spec, run = made("mamba2")
    case = draw_case(spec, replace(SHAPE, rows=1500, keys=1500), 6)
    tensors = tensors_of(case, torch.float64)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(gradients(run, tensors, case))
    torch.set_num_threads(before)
    assert all(torch.equal(x, found[1][n]) for n, x in found[0].items())


def test_a_reset_ends_gradients() -> None:
    """A log decay of -inf: nothing flows to the rows before, and nothing is NaN."""
    spec, run = made("gla")
    case = draw_case(spec, SHAPE, 7)
    tensors = tensors_of(case, torch.float64)
    tensors["g"][:, :, 6] = torch.inf
    leaves = {n: t.clone().requires_grad_() for n, t in tensors.items()}
    run(**leaves)[:, :, 6:].sum().backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None and leaf.grad.isfinite().all(), name
    assert not leaves["v"].grad[:, :, :6].any()  # type: ignore[index]


def test_transforms() -> None:
    spec, run = made("gated_delta")
    case = draw_case(spec, SHAPE, 8)
    tensors = tensors_of(case, torch.float64)

    def loss(q: torch.Tensor) -> torch.Tensor:
        return (run(**{**tensors, "q": q}) ** 2).sum()

    q = tensors["q"].clone().requires_grad_()
    (plain,) = torch.autograd.grad(loss(q), q)
    assert torch.equal(torch.func.grad(loss)(tensors["q"]), plain)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(torch.autograd.grad(compiled(q), q)[0], plain)
    direction = tensors["q"].cos()
    _, along = torch.func.jvp(loss, (tensors["q"],), (direction,))
    torch.testing.assert_close(along, (plain * direction).sum())


def unchanged(kernel: ReverseScanKernel) -> tuple[Any, ...]:
    return tuple(map(own, kernel.carried))


def doubled(kernel: ReverseScanKernel) -> ReverseScanKernel:
    first, *rest = kernel.writes
    return replace(
        kernel, writes=(replace(first, term=call("mul", number(2.0), first.term)), *rest)
    )


def stuck(kernel: ReverseScanKernel) -> ReverseScanKernel:
    replay = kernel.replay
    return replace(kernel, replay=replace(replay, advance=tuple(map(own, replay.states))))


# Each breaks one step: what a result adds, what goes on, the states of a block, a row, the end.
MUTANTS: dict[str, Callable[[ReverseScanKernel], ReverseScanKernel]] = {
    "none": lambda kernel: kernel,
    "nothing_absorbed": lambda kernel: replace(kernel, absorbed=unchanged(kernel)),
    "nothing_carried": lambda kernel: replace(kernel, advance=unchanged(kernel)),
    "first_state_of_block": stuck,
    "row_doubled": doubled,
    "no_first_state": lambda kernel: replace(kernel, ending=unchanged(kernel)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_die(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    derived = backward.differentiate_scan

    def changed(graph: Any) -> ScanDerivative:
        found = derived(graph)
        kernel, *maps = found.kernels
        assert isinstance(kernel, ReverseScanKernel)
        return replace(found, kernels=(MUTANTS[mutant](kernel), *maps))

    monkeypatch.setattr(backward, "differentiate_scan", changed)
    text = SPECS["constant_decay"][1].lstrip().replace("constant_decay", f"mutant_{mutant}")
    spec = read_spec(load_source(text))
    case = draw_case(spec, replace(SHAPE, rows=40, keys=40), 9)
    tensors = tensors_of(case, torch.float64)
    tensors["S"] = torch.ones(2, 4, 5, 19, dtype=torch.float64)
    wanted = gradients(Operator(spec, "eager"), tensors, case)
    worst = error(gradients(Operator(spec, "cpu"), tensors, case), wanted)
    assert (worst < 1e-11) == (mutant == "none"), worst
