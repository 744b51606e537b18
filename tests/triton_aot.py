"""Compiles the Triton kernels of schedules ahead of time, for GPUs that are not there.

A call is planned as for the device, with tensors on the CPU; instead of a launch, each kernel is
compiled with the very specialisation that Triton's launcher would have derived from the arguments.
Runs as a program of its own, since Triton is either the interpreter or the compiler in a process:

    python triton_aot.py 90 causal:float16:64 window:bfloat16:128      one JSON line for each
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from triton_cases import bind, load
from triton_gradients import GRADIENTS
from triton_shelf import CASES

from attnc.runtime.triton_launch import TritonBackend
from attnc.runtime.triton_plan import SHARED, TritonDevice, TritonTile


class AheadOfTime(TritonBackend):
    """A backend that compiles for `capability` and reports, instead of launching."""

    def __init__(self, table: Any, namespace: dict[str, Any], capability: int) -> None:
        super().__init__(table, namespace)
        self.capability = capability
        self.reports: list[dict[str, Any]] = []

    def device(self, device: torch.device) -> TritonDevice:
        return TritonDevice(self.capability, SHARED[self.capability], 132)

    def launch(
        self, function: str, programs: int, values: dict[str, Any], tile: TritonTile
    ) -> None:
        kernel = self.namespace[function]
        options = {"num_warps": tile.warps, "num_stages": tile.stages}
        report = compile_report(kernel, values, options, self.capability)
        shape = [values.get("BLOCK_HELD"), values.get("BLOCK_WALKED"), tile.warps, tile.stages]
        self.reports.append({"kernel": function, "tile": shape, **report})


def compile_report(
    kernel: Any, values: dict[str, Any], options: dict[str, Any], capability: int
) -> dict[str, Any]:
    """What the compiler made of a kernel: registers, bytes of stack (spills), shared memory, and
    which instructions are in it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile, make_backend
    from triton.runtime.jit import create_function_from_signature

    target = GPUTarget("cuda", capability, 32)
    backend = make_backend(target)
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, extra = binder(**values, **options)
    parsed, signature, constants, attrs = kernel._pack_args(
        backend, options, bound, specialization, extra
    )
    source = ASTSource(kernel, signature, constants, attrs)
    compiled = compile(source, target=target, options=parsed.__dict__)
    ptx = compiled.asm["ptx"]
    registers, stack = resources(compiled.asm["cubin"])
    return {
        "registers": registers,
        "stack": stack,
        "shared": compiled.metadata.shared,
        "wgmma": "wgmma.mma_async" in ptx,
        "tcgen05": "tcgen05.mma" in ptx,
        "tf32": "tf32" in ptx,
        "descriptors": "cp.async.bulk.tensor" in ptx,
        "asynchronous": "cp.async" in ptx,
    }


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread and bytes of its stack, as cuobjdump prints them."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"REG:(\d+) STACK:(\d+)", text)  # functions of the driver may stand first
    assert found, text
    registers, stack = zip(*found, strict=True)
    return max(map(int, registers)), max(map(int, stack))


def report(capability: int, wanted: str, folder: Path) -> dict[str, Any]:
    """Compiles `case:dtype:width[:rows[:forced constexprs as JSON]]`; `gradient.case` backward."""
    name, dtype, width, *rest = wanted.split(":", 4)
    backward = name.startswith("gradient.")
    case = GRADIENTS[name.partition(".")[2]] if backward else CASES[name]
    schedule = case.schedule() if backward else case.schedule
    module = load(schedule, folder)
    backend = AheadOfTime(module.TRITON_KERNELS, vars(module), capability)
    backend.forced = json.loads(rest[1]) if len(rest) > 1 else {}
    sizes = {"rows": int(rest[0]) if rest else 1024, "keys": 1024}
    sizes |= {"width": int(width), "across": int(width)}
    tensors = case.tensors(getattr(torch, dtype), **sizes)
    if backward:
        tensors = case.shaped(tensors)
    call = bind(schedule, tensors, case.numbers)
    backend(call, frozenset(o.name for o in call.signature.outputs))
    return {"wanted": wanted, "capability": capability, "kernels": backend.reports}


def main() -> None:
    capability = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        for wanted in sys.argv[2:]:
            print(json.dumps(report(capability, wanted, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
