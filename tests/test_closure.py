"""Closure of the derivatives: tangents, second order and tangents of gradients of every operator.

Those of the gallery that are one schedule, interpreted, against the eager form's float64 autograd;
and what has none says so.

A short choice of both is in test_backward; this matrix is under -m torture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from derivative_cases import cotangents_of, error, leaves_of, run
from eager_loader import load
from gallery_cases import EXAMPLES

from attnc.cases import Case, Shape, draw_case
from attnc.errors import UnsupportedError
from attnc.front import load_source, read_spec
from attnc.passes.backward import lower_backward_tangent, lower_second, lower_tangent
from attnc.passes.differentiate import cotangents
from attnc.passes.pipeline import lower, prepare
from attnc.spec import Spec

SHAPE = Shape(5, 5, 3, 2, 1, 2, 2)
LOWER = {"tangent": lower_tangent, "second": lower_second, "over": lower_backward_tangent}
# What is refused, by the first word of the feature.
REFUSED = {
    ("razor_heads", "second"): "pooling_stage",
    ("razor_heads", "over"): "pooling_stage",
}
# Two walks along the keys, which the interpreter has not; a mask that divides by 0 on so few rows.
NOT_INTERPRETED = {"stick_breaking", "contextual_positions", "grid_partition"}
PATHS = sorted(EXAMPLES.glob("*/*.attn"))


def read(path: Path) -> Spec:
    return read_spec(load_source(path))


def is_one(spec: Spec) -> bool:
    """Whether a loop over keys is all that the operator is."""
    try:
        return not spec.root.states and bool(lower(spec).kernels)
    except UnsupportedError:
        return False


@pytest.mark.torture
@pytest.mark.parametrize("kind", LOWER)
@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_closure(path: Path, kind: str) -> None:
    spec = read(path)
    if not is_one(spec):
        return
    refused = REFUSED.get((path.stem, kind))
    if refused is not None:
        with pytest.raises(UnsupportedError, match=refused):
            LOWER[kind](spec)
        return
    schedule = LOWER[kind](spec)
    if path.stem in NOT_INTERPRETED:
        return
    case = draw_case(spec, SHAPE, 1)
    given, wanted = Truth(spec, case).of(kind)
    found = run(spec, schedule, {**case.tensors, **given}, case)
    made = {argument.name.rstrip("_"): argument.name for argument in schedule.signature.outputs}
    for name, value in wanted.items():
        finite = np.isfinite(value)
        if name in made:
            assert error(found[made[name]][finite], value[finite]) < 1e-9, name
        else:
            assert not value.any(), f"{name} is missing"


class Truth:
    """What autograd says of the eager form, along random directions."""

    def __init__(self, spec: Spec, case: Case) -> None:
        self.given, self.leaves = leaves_of(case)
        self.call = load(spec)
        self.numbers = {**case.numbers, **case.extras}
        names = cotangents(prepare(spec))
        outputs = self.outputs(*self.leaves.values())
        self.cotangents = {
            names[name].name: torch.from_numpy(value)
            for name, value in cotangents_of(dict(zip(names, outputs, strict=True))).items()
        }
        rng = np.random.default_rng(5)
        every = {**self.leaves, **self.cotangents}
        self.along = {
            n: torch.from_numpy(rng.normal(size=tuple(t.shape))) for n, t in every.items()
        }

    def outputs(self, *tensors: Any) -> tuple[Any, ...]:
        renewed = {**self.given, **dict(zip(self.leaves, tensors, strict=True))}
        found = self.call(**renewed, **self.numbers, emit=())
        return tuple(value for value in found.values() if value.is_floating_point())

    def of(self, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Further inputs of a schedule, and what it is to give."""
        return {"tangent": self.tangent, "second": self.second, "over": self.over}[kind]()

    def tangent(self) -> tuple[dict[str, Any], dict[str, Any]]:
        dots = {f"{name}_dot": self.along[name] for name in self.leaves}
        tensors = tuple(leaf.detach() for leaf in self.leaves.values())
        _, moved = torch.func.jvp(self.outputs, tensors, tuple(dots.values()))
        names = (name.removesuffix("_grad") for name in self.cotangents)
        wanted = {f"{name}_dot": value for name, value in zip(names, moved, strict=True)}
        return numbers_of(dots), numbers_of(wanted)

    def second(self) -> tuple[dict[str, Any], dict[str, Any]]:
        leaves = list(self.leaves.values())
        given = {name: value.requires_grad_() for name, value in self.cotangents.items()}
        pairs = zip(self.outputs(*leaves), given.values(), strict=True)
        whole = sum((out.nan_to_num(0, 0, 0) * value).sum() for out, value in pairs)
        first = torch.autograd.grad(whole, leaves, create_graph=True, allow_unused=True)
        found = {n: g for n, g in zip(self.leaves, first, strict=True) if g is not None}
        along = {f"{name}_grad_grad": self.along[name] for name in found}
        pushed = sum((g * self.along[name]).sum() for name, g in found.items())
        every = {**self.leaves, **given}
        again = torch.autograd.grad(pushed, list(every.values()), allow_unused=True)
        wanted = {f"{n}_grad": g for n, g in zip(every, again, strict=True) if g is not None}
        return numbers_of({**given, **along}), numbers_of(wanted)

    def over(self) -> tuple[dict[str, Any], dict[str, Any]]:
        count = len(self.leaves)

        def back(*tensors: Any) -> Any:
            def real(*inputs: Any) -> Any:
                return tuple(out.nan_to_num(0, 0, 0) for out in self.outputs(*inputs))

            _, pull = torch.func.vjp(real, *tensors[:count])
            return pull(tuple(tensors[count:]))

        every = {**self.leaves, **self.cotangents}
        dots = {f"{name}_dot": self.along[name] for name in every}
        tensors = tuple(value.detach() for value in every.values())
        _, moved = torch.func.jvp(back, tensors, tuple(dots.values()))
        wanted = {f"{n}_grad_dot": g for n, g in zip(self.leaves, moved, strict=True)}
        return numbers_of({**self.cotangents, **dots}), numbers_of(wanted)


def numbers_of(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: value.detach().numpy() for name, value in tensors.items()}
