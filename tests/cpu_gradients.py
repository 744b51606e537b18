"""Calls of CPU backward kernels on the shelf of hand-made gradients, and their error beside
autograd's of the dense formula in the same dtype."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from attnc.backends.cpu import emit
from triton_cases import K, Q, b, bind, d, e, h, hk, i, j, number
from triton_gradients import (
    AROUND,
    DK,
    DQ,
    DV,
    GRAD,
    GRADIENTS,
    SIZE,
    Gradient,
    Tensors,
    g,
    repeated,
    share,
)

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, call, fold, position, read, value
from attnc.runtime.cpu_calls import CpuBackend
from attnc.schedule import Kernel, Schedule, Workspace
from attnc.schedule.maps import MapKernel
from attnc.schedule.statements import Carried, Contribution, Deposit, PairStore, Store
from attnc.schedule.streams import StreamKernel

SWEEPS = ("one", "two")


ROWS = Array("rows", (share, b, hk, g, i, d), "real", "workspace")
PAIRS = Array("pairs", (b, hk, g, j, i), "real", "workspace")


@cache
def schedule_of(name: str, sweep: str) -> Schedule:
    """The backward of a case of the shelf: as it stands there (rows held, keys held), or in one
    sweep that holds keys and deposits into rows."""
    case = GRADIENTS[name]
    made = case.schedule()
    if sweep == "two":
        return made
    kernels: list[Kernel] = [one for one in made.kernels if one.name not in ("rows", "keys")]
    kernels[1:1] = [_sweep(case), _gathered(DQ, ROWS, d)]
    spaces = [*made.workspaces, Workspace(ROWS, "accumulate")]
    for pair in case.pairs(AROUND):
        kernels.append(_gathered(pair.array, PAIRS, None))
        spaces.append(Workspace(PAIRS, "accumulate"))
    return replace(made, kernels=tuple(kernels), workspaces=tuple(spaces))


def _sweep(case: Gradient) -> StreamKernel:
    """Keys held in shares, rows walked around the heads of the group."""
    weight, slope = AROUND.named("weight", i, j), AROUND.named("dot_grad", i, j)
    loop = case.loop(
        AROUND,
        j,
        (Contribution("dv", weight, AROUND.at(GRAD)), Contribution("dk", slope, AROUND.at(Q))),
        deposits=(Deposit(ROWS, slope, d, AROUND.at(K)),),
        pair_stores=tuple(PairStore(PAIRS, pair.term) for pair in case.pairs(AROUND)),
    )
    return StreamKernel(
        "sweep",
        (share, b, hk),
        j,
        (),
        (),
        (Carried("dk", "sum", d), Carried("dv", "sum", e)),
        (loop,),
        (),
        (
            Store(DK, d, value("dk", "real", (b, hk, j, d))),
            Store(DV, e, value("dv", "real", (b, hk, j, e))),
        ),
        split=share,
    )


def _gathered(output: Array, parts: Array, width: Index | None) -> MapKernel:
    """Rows or pairs of a head from where its group left them, shares added in order."""
    size = call("max", SIZE, number(1))
    one = Index("share", share.axis, 7)
    moves = {share: one}
    at: list[Expr] = [
        call("floordiv", position(h), size) if index == hk
        else call("mod", position(h), size) if index == g
        else position(moves.get(index, index))
        for index in parts.indices
    ]  # fmt: skip
    total = read(parts, at)
    if share in parts.indices:
        total = fold("sum", (one,), total)
    over = tuple(index for index in output.indices if index != width)
    return MapKernel(f"gather_{output.name}", over, (), (Store(output, width, total),))


def cpu_backend(name: str, sweep: str) -> CpuBackend:
    """For the compiler's flags of now."""
    return _cpu_backend(name, sweep, os.environ.get("ATTNC_CXXFLAGS"))


@cache
def _cpu_backend(name: str, sweep: str, flags: str | None) -> CpuBackend:
    return CpuBackend(emit(schedule_of(name, sweep)))


def outputs_of(name: str) -> list[str]:
    return [argument.name for argument in GRADIENTS[name].schedule().signature.outputs]


def run(
    name: str, sweep: str, tensors: Tensors, wanted: frozenset[str] | None = None, **extras: Any
) -> dict[str, torch.Tensor | None]:
    """Gradients by name, None where not wanted. `tensors` has what the forward gives."""
    case, schedule = GRADIENTS[name], schedule_of(name, sweep)
    names = outputs_of(name)
    call = bind(schedule, tensors, case.numbers, **extras)
    found = cpu_backend(name, sweep)(call, frozenset(names) if wanted is None else wanted)
    return dict(zip(names, found, strict=True))


@cache
def cpu_forward(name: str) -> CpuBackend:
    return CpuBackend(emit(GRADIENTS[name].forward_schedule()))


def given(name: str, tensors: Tensors, **extras: Any) -> Tensors:
    """The tensors, with what the forward kernel gives."""
    case = GRADIENTS[name]
    schedule = case.forward_schedule()
    names = [argument.name for argument in schedule.signature.outputs]
    taken = {argument.name for argument in schedule.signature.inputs}
    inputs = {n: x for n, x in tensors.items() if n in taken}
    call = bind(schedule, inputs, case.numbers, **extras)
    found = cpu_forward(name)(call, frozenset(names))
    return {**tensors, **{n: x for n, x in zip(names, found, strict=True) if x is not None}}


def dense(case: Gradient, tensors: Tensors, extras: dict[str, Any]) -> Tensors:
    """The kernels' algebra as a dense formula in the dtype of the tensors: delta is <grad, out>, of
    a result that is rounded. (Autograd sums p * dp instead, which loses less where one key has
    nearly all the weight.)"""
    names = {"dq": "q", "dk": "k", "dv": "v", **{o: n for n, o in case.asked.items()}}
    leaves = {n: tensors[n].detach().clone().requires_grad_() for n in names.values()}
    score, some = case.scores({**tensors, **leaves}, extras)
    weight = torch.softmax(torch.where(some, score.detach(), 0.0), -1) * some
    result = weight @ repeated(leaves["v"], score.shape[1])
    delta = (tensors["grad"] * result.detach()).sum(-1, keepdim=True)
    change = tensors["grad"] @ repeated(tensors["v"], score.shape[1]).mT - delta
    ends = (weight * change, tensors["grad"])
    found = torch.autograd.grad((score, result), list(leaves.values()), ends, allow_unused=True)
    return {
        output: torch.zeros_like(leaf) if grad is None else grad
        for output, leaf, grad in zip(names, leaves.values(), found, strict=True)
    }


def check(name: str, sweep: str, tensors: Tensors, at_most: float = 2.0, **extras: Any) -> None:
    """The error of each gradient against float64 is at most `at_most` times that of autograd of
    the dense formula in the same dtype in the Frobenius norm, and times that of the same algebra in
    eager PyTorch in the worst row."""
    case = GRADIENTS[name]
    found = run(name, sweep, given(name, tensors, **extras), **extras)
    exact = case.gradients(tensors, extras, torch.float64)
    rivals = case.gradients(tensors, extras, tensors["q"].dtype)
    same = dense(case, tensors, extras)
    for output, wanted in exact.items():
        got = found[output]
        assert got is not None and got.shape == wanted.shape
        assert got.isfinite().all(), (name, sweep, output)
        mine, theirs = got.double() - wanted, rivals[output].double() - wanted
        # Where eager is exact, roundings of the gradient are granted.
        unit = torch.finfo(tensors["q"].dtype).eps
        unit *= 16 if tensors["q"].dtype is torch.float64 else 0.5
        whole = torch.maximum(theirs.norm(), unit * wanted.norm())
        ratio = (mine.norm() / whole).item() if mine.norm() else 0.0
        assert ratio <= at_most, (name, sweep, output, ratio)
        if not wanted.numel() or not wanted.dim():
            continue
        rows = wanted.flatten(0, -2).norm(dim=-1).max()
        other = same[output].double() - wanted
        granted = max(theirs, other, key=lambda x: float(x.flatten(0, -2).norm(dim=-1).max()))
        worst = torch.maximum(granted.flatten(0, -2).norm(dim=-1).max(), unit * rows)
        most = mine.flatten(0, -2).norm(dim=-1).max()
        assert not most or most <= at_most * worst, (name, sweep, output, (most / worst).item())
