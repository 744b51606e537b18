"""Recurrences on Triton: calls of the shelf's specs, and what the compiler makes of their kernels.

Run as a program, it compiles ahead of time (triton_aot), one JSON line for each case:

    python triton_scans.py 90 gated_delta:bfloat16:128:8 gradient.mamba:float32:64:8
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recurrences import SPECS
from triton_cases import bind, load

from attnc.cases import Shape, draw_case
from attnc.front import load_source, read_spec
from attnc.operator import Operator
from attnc.passes.backward import lower_derivative
from attnc.runtime.call import Call, check_call
from attnc.runtime.triton_launch import TritonBackend, triton_jit
from attnc.schedule import Schedule
from attnc.schedule.scans import ScanKernel
from attnc.spec import Spec


@cache
def spec_of(name: str) -> Spec:
    return read_spec(load_source(SPECS[name][1].lstrip()))


@cache
def kernels_of(name: str) -> Any:
    """The module of an operator."""
    return Operator(spec_of(name)).module


def tensors_of(case: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    given = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in case.tensors.items()}
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in given.items()}


def call_of(name: str, shape: Shape, dtype: torch.dtype, seed: int = 1, **given: Any) -> Call:
    """A call as a backend gets it; `given`: tensors beside those that are drawn."""
    case = draw_case(spec_of(name), shape, seed)
    tensors = {**tensors_of(case, dtype), **given}
    signature = kernels_of(name).SETS[""].signature
    return check_call(signature, tensors, dict(case.numbers), dict(case.extras))


def run(name: str, call: Call, wanted: frozenset[str], **forced: Any) -> dict[str, Any]:
    """The results of a call with constexprs that stand above the model's choice."""
    module = kernels_of(name)
    backend = TritonBackend(module.SETS[""].cuda, vars(module))
    backend.forced = forced
    results = backend(call, wanted)
    return dict(zip((o.name for o in call.signature.outputs), results, strict=True))


@dataclass(frozen=True)
class Pulled:
    """The backward of a call: its schedule, its tensors with what the forward keeps and the
    cotangents of results, all of which the caller fills."""

    forward: Schedule
    backward: Schedule
    first: Call
    tensors: dict[str, torch.Tensor]
    cotangents: tuple[tuple[str, str], ...]
    gradients: tuple[tuple[str, str], ...]

    def call(self) -> Call:
        return self.bound(self.backward, self.tensors)

    def bound(self, schedule: Schedule, tensors: dict[str, torch.Tensor]) -> Call:
        call = bind(schedule, tensors, {})
        call.known |= {n: size for n, size in self.first.known.items() if n not in call.known}
        return call


def pulled(spec: Spec, tensors: dict[str, torch.Tensor]) -> Pulled:
    """The backward of a call of a spec without params, every state given."""
    found = lower_derivative(spec)
    first = bind(found.forward, tensors, {})
    kernel = found.forward.kernels[0]
    assert isinstance(kernel, ScanKernel)
    rows = first.known[f"len_{kernel.loop.time.axis.name}"]
    for one in kernel.checkpoints:
        blocks = one.array.indices[len(kernel.grid)].axis.name
        first.known[f"len_{blocks}"] = -(-rows // kernel.every)
    made = {o.name: first.new_output(o) for o in first.signature.outputs if o.name not in tensors}
    given = {array.name: made[array.name] for array in found.saved}
    given |= {cotangent: made[name] for name, cotangent in found.cotangents}
    every = tensors | given
    parts = (found.forward, found.backward, first, every, found.cotangents, found.gradients)
    return Pulled(*parts)


def trained(spec: Spec, tensors: dict[str, torch.Tensor]) -> tuple[Pulled, dict[str, torch.Tensor]]:
    """A backward whose forward has run, and its gradients by autograd of the eager form."""
    found = pulled(spec, tensors)
    with tempfile.TemporaryDirectory() as folder:
        module = load(found.forward, Path(folder))
        names = tuple(o.name for o in found.first.signature.outputs)
        results = TritonBackend(module.TRITON_KERNELS, vars(module))(found.first, frozenset(names))
    found.tensors.update(
        {n: x for n, x in zip(names, results, strict=True) if n.startswith("saved")}
    )
    torch.manual_seed(0)
    found.tensors["out_grad"].copy_(torch.randn(found.tensors["out_grad"].shape))
    leaves = {n: x.clone().requires_grad_() for n, x in tensors.items()}
    out = Operator(spec, "eager")(**leaves)
    grads = torch.autograd.grad(out, list(leaves.values()), found.tensors["out_grad"])
    return found, dict(zip(leaves, grads, strict=True))


def gradients_of_text(text: str, found: Pulled, **forced: Any) -> dict[str, torch.Tensor]:
    """The gradients that a text of kernels makes of a backward's call, by input."""
    space: dict[str, Any] = {"triton_jit": triton_jit}
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:  # triton reads functions' text
        file.write(text)
        file.flush()
        exec(compile(Path(file.name).read_text(), file.name, "exec"), space)
        backend = TritonBackend(space["TRITON_KERNELS"], space)
        backend.forced = forced or backend.forced
        results = backend(found.call(), frozenset(array for _, array in found.gradients))
    names = [output.name for output in found.call().signature.outputs]
    made = dict(zip(names, results, strict=True))
    return {name: made[array] for name, array in found.gradients}


def report(capability: int, wanted: str) -> dict[str, Any]:
    """What the compiler made of `name:dtype:width:rows`, of its reversed scan where the name
    begins with `gradient.`."""
    from triton_aot import AheadOfTime

    name, dtype, *sizes = wanted.split(":")
    width, rows = map(int, sizes)
    shape = Shape(rows, rows, width, width, 2, 2, 2)
    call = call_of(name.removeprefix("gradient."), shape, getattr(torch, dtype))
    if name.startswith("gradient."):
        found = pulled(spec_of(name.removeprefix("gradient.")), call.tensors)
        with tempfile.TemporaryDirectory() as folder:
            module = load(found.backward, Path(folder))
            table = module.TRITON_KERNELS  # the maps after it are like any
            table = {**table, "kernels": table["kernels"][:1]}
            backend = AheadOfTime(table, vars(module), capability)
            backend(found.call(), frozenset(table["kernels"][0]["writes"]))
        return {"wanted": wanted, "capability": capability, "kernels": backend.reports}
    module = kernels_of(name)
    backend = AheadOfTime(module.SETS[""].cuda, vars(module), capability)
    backend(call, frozenset(o.name for o in call.signature.outputs))
    return {"wanted": wanted, "capability": capability, "kernels": backend.reports}


if __name__ == "__main__":
    for each in sys.argv[2:]:
        print(json.dumps(report(int(sys.argv[1]), each)), flush=True)
