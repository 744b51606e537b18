"""An operator made of several: equations as torch operations between kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from attnc.runtime.assembly import family_of
from attnc.runtime.eager_numbers import plain
from attnc.runtime.eager_operator import EagerOperator
from attnc.runtime.family import Family
from attnc.runtime.operator import KernelOperator
from attnc.runtime.slots import Signature


class PipelineOperator(EagerOperator):
    """The composed form behind the operator's signature.

    stages      the operators of its blocks, by name
    backends    the device types that all of them run on"""

    def __init__(
        self,
        signature: Signature,
        function: Callable[..., Any],
        names: dict[str, str],
        stages: Mapping[str, Any],
    ) -> None:
        def with_stages(**given: Any) -> Any:
            return function(**given, stages=self.stages)

        super().__init__(signature, with_stages, names)
        self.composed = function
        self.stages = dict(stages)

    def __repr__(self) -> str:
        names = ", ".join(self.stages) or "equations alone"
        return f"<attnc pipeline {self.signature.name}: {names}>"

    def on(self, build: Callable[[Any], dict[str, Any]]) -> PipelineOperator:
        """The same with stages whose backends `build` makes."""
        made = {
            name: Family(one.family.sets, build, KernelOperator).operator()
            for name, one in self.stages.items()
        }
        names = self.names
        return PipelineOperator(self.signature, self.composed, names, made)

    @property
    def refusals(self) -> dict[str, str]:
        """Why stages do not run on a device."""
        return {
            device: f"{why} (in the stage `{name}`)"
            for name, one in self.stages.items()
            for device, why in one.kernels.refusals.items()
        }

    @property
    def backends(self) -> dict[str, Any]:
        """The device types that every stage runs on, each with the stages' backends."""
        every = [one.backends for one in self.stages.values()]
        shared = set.intersection(*map(set, every)) if every else {"cpu", "cuda"}
        return {device: [one[device] for one in every] for device in sorted(shared)}


def pipeline_of(
    signature: Signature,
    function: Callable[..., Any],
    names: dict[str, str],
    sets: dict[str, dict[str, Any]],
    namespace: dict[str, Any],
) -> PipelineOperator:
    """The pipeline of a module; `sets` are the kernel sets of its stages."""
    stages = {name: family_of(own, namespace).operator() for name, own in sets.items()}
    return PipelineOperator(signature, function, names, stages)


def staged(
    operator: Any,
    tensors: Mapping[str, Any],
    others: Mapping[str, Any],
    narrow: torch.dtype,
    emit: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """The outputs of a stage by name, the result as `out`. What meets in products has the dtype
    `narrow`; numbers with an exponent become plain."""
    signature = operator.signature
    given = {name: plain(tensor) for name, tensor in tensors.items()}
    for slot in signature.inputs:
        if slot.dtype == "query":
            given[slot.name] = given[slot.name].to(narrow)
    if signature.takes("dtype"):
        given["dtype"] = narrow
    found = operator(**given, **others, emit=emit)
    return dict(zip(("out", *emit), found if emit else (found,), strict=True))
