"""Forward mode of recurrences: the states' tangents are carried beside them, by the same kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_cpu_scan import SHAPE, made, tensors_of
from torch.utils._pytree import tree_leaves
from triton_cases import backend, bind

from attnc.cases import Shape, draw_case
from attnc.operator import Operator
from attnc.passes.backward import lower_second, lower_tangent

pytestmark = pytest.mark.usefixtures("quick_build")


def moved(op: Any, tensors: dict[str, torch.Tensor], along: list[str], seed: int) -> list[Any]:
    """Results, last states and the tangents of both, along random directions of these inputs."""
    generator = torch.Generator().manual_seed(seed)
    point = tuple(tensors[name] for name in along)
    direction = tuple(torch.randn(x.shape, dtype=x.dtype, generator=generator) for x in point)

    def call(*moving: torch.Tensor) -> Any:
        given = tensors | dict(zip(along, moving, strict=True))
        return op(**given, return_state=True)

    return tree_leaves(torch.func.jvp(call, point, direction))


# Products of states, a maximum that is carried.
@pytest.mark.parametrize("name", ["gated_delta", "running_max"])
def test_tangents_of_a_recurrence(name: str, seed: int) -> None:
    spec, op = made(name)
    tensors = tensors_of(draw_case(spec, SHAPE, seed), torch.float64)
    along = [name for name, tensor in tensors.items() if tensor.is_floating_point()]
    eager = Operator(spec, "eager")
    for names in (along, along[:1]):
        expected = moved(eager, tensors, names, seed)
        for one, other in zip(moved(op, tensors, names, seed), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_tangents_on_triton(tmp_path: Path, seed: int) -> None:
    """All that the kernel makes, or the result's tangent alone."""
    spec, op = made("gated_delta")
    case = draw_case(spec, Shape(3, 3, 3, 2, 1, 1, 2), seed)
    tensors = tensors_of(case, torch.float64)
    (tensors["S"],) = op(**tensors, return_state=True)[1]
    along = [name for name, tensor in tensors.items() if tensor.is_floating_point()]
    generator = torch.Generator().manual_seed(seed)
    dots = {
        f"{name}_dot": torch.randn(tensors[name].shape, dtype=torch.float64, generator=generator)
        for name in along
    }
    names = ("out", "S", "out_dot", "S_dot")
    expected = dict(zip(names, moved(Operator(spec, "eager"), tensors, along, seed), strict=True))
    schedule = lower_tangent(spec, ("S",))
    call = bind(schedule, tensors | dots, dict(case.numbers))
    for wanted in (frozenset(names), frozenset({"out_dot"})):
        found = backend(schedule, tmp_path)(call, wanted)
        for slot, one in zip(call.signature.outputs, found, strict=True):
            assert (one is not None) == (slot.name in wanted)
            if one is not None:
                torch.testing.assert_close(one, expected[slot.name], rtol=1e-10, atol=1e-10)


def slopes(op: Any, tensors: dict[str, torch.Tensor], seed: int) -> list[Any]:
    """Gradients of results and last states, and how they change: by reverse mode over them, and
    along random directions."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, dtype=like.dtype, generator=generator)

    names = [name for name, tensor in tensors.items() if tensor.is_floating_point()]
    point = tuple(tensors[name] for name in names)

    def call(*given: torch.Tensor) -> Any:
        found = op(**(tensors | dict(zip(names, given, strict=True))), return_state=True)
        return tree_leaves(found)

    inputs = [tensor.clone().requires_grad_() for tensor in point]
    outputs = call(*inputs)
    cotangents = [drawn(output).requires_grad_() for output in outputs]
    first = torch.autograd.grad(outputs, inputs, cotangents, create_graph=True)
    again = [drawn(gradient) for gradient in first]
    second = torch.autograd.grad(first, [*inputs, *cotangents], again)

    def squares(*given: torch.Tensor) -> torch.Tensor:
        return sum((one**2).sum() for one in call(*given))

    every = torch.func.grad(squares, argnums=tuple(range(len(point))))
    pushed = torch.func.jvp(every, point, tuple(drawn(tensor) for tensor in point))
    return [*first, *second, *tree_leaves(pushed)]


# Products of states, rows before, rows that combine.
@pytest.mark.parametrize("name", ["gated_delta", "lagged", "min_gru"])
def test_second_order_of_a_recurrence(name: str, seed: int) -> None:
    spec, op = made(name)
    tensors = tensors_of(draw_case(spec, SHAPE, seed), torch.float64)
    expected = slopes(Operator(spec, "eager"), tensors, seed)
    for one, other in zip(slopes(op, tensors, seed), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_second_order_on_triton(tmp_path: Path, seed: int) -> None:
    """As on the CPU, where torch is asked for it."""
    spec, op = made("gated_delta")
    tensors = tensors_of(draw_case(spec, Shape(3, 3, 3, 2, 1, 1, 2), seed), torch.float64)
    (tensors["S"],) = op(**tensors, return_state=True)[1]
    inputs = [tensor.clone().requires_grad_() for tensor in tensors.values()]
    out = op(**dict(zip(tensors, inputs, strict=True)))
    cotangent = torch.ones_like(out).requires_grad_()
    first = torch.autograd.grad(out, inputs, cotangent, create_graph=True)
    expected = torch.autograd.grad(first, [*inputs, cotangent], first)
    schedule = lower_second(spec)
    again = {f"{name}_grad_grad": x.detach() for name, x in zip(tensors, first, strict=True)}
    call = bind(schedule, tensors | again | {"out_grad": cotangent.detach()}, {})
    names = [slot.name for slot in call.signature.outputs]
    found = dict(zip(names, backend(schedule, tmp_path)(call, frozenset(names)), strict=True))
    for name, one in zip((*tensors, "out_grad"), expected, strict=True):
        torch.testing.assert_close(found[f"{name}_grad"], one, rtol=1e-10, atol=1e-10)
