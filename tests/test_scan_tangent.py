"""Forward mode of recurrences: the states' tangents are carried beside them, by the same kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_cpu_scan import SHAPE, made, tensors_of
from torch.utils._pytree import tree_leaves

from attnc.cases import draw_case
from attnc.operator import Operator

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


# Products of states, a maximum carried, other rows, a state's own first value.
@pytest.mark.parametrize("name", ["gated_delta", "running_max", "lagged", "min_gru"])
def test_tangents_of_a_recurrence(name: str, seed: int) -> None:
    spec, op = made(name)
    tensors = tensors_of(draw_case(spec, SHAPE, seed), torch.float64)
    along = [name for name, tensor in tensors.items() if tensor.is_floating_point()]
    eager = Operator(spec, "eager")
    for names in (along, along[:1]):
        expected = moved(eager, tensors, names, seed)
        for one, other in zip(moved(op, tensors, names, seed), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
