"""Launches the Triton kernels of an emitted module: arguments, tiles, buffers, in order.

The kernels are plain functions until the first launch: triton is imported then, not before, so that
a module works where there is none. The names of arguments and the module's table TRITON_KERNELS say
where each comes from; nothing here knows a formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

import torch

from attnc.runtime.call import Call
from attnc.runtime.failures import UnsupportedError
from attnc.runtime.triton_interpreter import interpreter_mended
from attnc.runtime.triton_plan import SHARED, TritonDevice, TritonTile, shares_of
from attnc.runtime.triton_run import KernelRun
from attnc.runtime.triton_sources import measure, with_arguments

LISTS_KEPT = 8


def triton_jit(function: Any) -> Any:
    """Marks a function as a Triton kernel or helper; `load_triton` makes it one."""
    function.is_triton = True
    return function


def load_triton(namespace: dict[str, Any]) -> None:
    """Turns the marked functions of a module into Triton's own. Integers are never specialised on:
    no length, stride or offset makes a new kernel."""
    if namespace.get("tl") is not None:
        return
    try:
        import triton
        import triton.language as tl
    except ImportError:
        raise UnsupportedError("kernels without triton installed", "triton", ("eager",)) from None
    namespace["triton"], namespace["tl"] = triton, tl
    for name, function in list(namespace.items()):
        if getattr(function, "is_triton", False):
            integers = [
                parameter
                for parameter, annotation in function.__annotations__.items()
                if annotation == "tl.int64"
            ]
            namespace[name] = triton.jit(do_not_specialize=integers)(function)


def describe_device(device: torch.device) -> TritonDevice:
    """The device as the model of tiles sees it."""
    if device.type != "cuda":
        return TritonDevice(80, SHARED[80], 1, interpreted=True)
    properties = torch.cuda.get_device_properties(device)
    capability = properties.major * 10 + properties.minor
    known = SHARED.get(capability, SHARED.get(properties.major * 10, 49152))
    shared = getattr(properties, "shared_memory_per_block_optin", known)
    return TritonDevice(capability, shared, properties.multi_processor_count)


def in_turns(kernels: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The kernels in order; those of rounds together, as often as their entry says."""
    for (_, count), group in groupby(kernels, lambda kernel: kernel.get("turns", (-1, 1))):
        own = tuple(group)
        for _ in range(count):
            yield from own


class TritonBackend:
    """Runs calls of one module: `TritonBackend(TRITON_KERNELS, globals())(call, wanted)`.

    forced    constexprs and `splits`, `warps`, `stages` that stand above the model's choice, for
              tests and for the tuner
    tuned     (kernel, call) -> a tile chosen by measurement, or None
    """

    def __init__(self, table: Mapping[str, Any], namespace: dict[str, Any]) -> None:
        self.table = with_arguments(table, namespace)
        self.namespace = namespace
        self.forced: dict[str, Any] = {}
        self.tuned: Callable[[str, Call], TritonTile | None] = lambda function, call: None
        self.failed: set[tuple[Any, ...]] = set()
        self._devices: dict[torch.device, TritonDevice] = {}
        self._lists: dict[tuple[Any, ...], dict[str, Any]] = {}

    def __call__(self, call: Call, wanted: frozenset[str]) -> tuple[torch.Tensor | None, ...]:
        load_triton(self.namespace)
        lengths = self.lengths(call)
        kernels, needed = self.needed_kernels(wanted)
        outputs = {
            output.name: call.new_output(output) if output.name in wanted else None
            for output in call.signature.outputs
        }
        tensors: dict[str, Any] = {slot.name: None for slot in call.signature.inputs}
        tensors.update(call.tensors)
        for name, output in outputs.items():  # a last state has the name of the first one
            tensors[f"{name}.last" if name in call.tensors else name] = output
        for name, axes, dtype in self.table["workspaces"]:
            sizes = {**call.known, **{f"len_{axis}": size for axis, size in lengths.items()}}
            shape = tuple(sizes[f"len_{axis}"] for axis in axes)
            kind = call.dtype if dtype == "query" else call.accumulate
            made = torch.empty(shape, dtype=kind, device=call.device) if name in needed else None
            tensors[name] = made
        guard = (
            torch.cuda.device(call.device) if call.device.type == "cuda" else interpreter_mended()
        )
        with guard:
            for kernel in in_turns(kernels):
                run = KernelRun(self, kernel, call, tensors, lengths)
                getattr(run, kernel["kind"])()
        return tuple(outputs[output.name] for output in call.signature.outputs)

    def needed_kernels(
        self, wanted: frozenset[str]
    ) -> tuple[list[Mapping[str, Any]], frozenset[str]]:
        """The kernels that the wanted outputs need, in order, and the arrays between them."""
        needed, kernels = set(wanted), list[Mapping[str, Any]]()
        for kernel in reversed(self.table["kernels"]):
            if needed.intersection(kernel["writes"]):
                needed.update(kernel["reads"])
                kernels.insert(0, kernel)
        return kernels, frozenset(needed)

    def lengths(self, call: Call) -> dict[str, int]:
        """Lengths that no tensor has: those that follow from others, and numbers of shares."""
        lengths = {axis: measure(text, call.known) for axis, text in self.table["lengths"]}
        for kernel in self.table["kernels"]:
            if kernel["kind"] == "stream" and kernel["ordered"] and kernel["split"]:
                run = KernelRun(self, kernel, call, {}, lengths)
                shares = shares_of(run.length(kernel["held"]), run.outer())
                lengths.setdefault(kernel["split"], self.forced.get("shares") or shares)
        return lengths

    def candidates(self, call: Call) -> dict[str, tuple[TritonTile, ...]]:
        """The tiles that the model would try for each stream kernel of a call."""
        lengths = self.lengths(call)
        return {
            kernel["function"]: KernelRun(self, kernel, call, {}, lengths).candidates()
            for kernel in self.table["kernels"]
            if kernel["kind"] == "stream"
        }

    def device(self, device: torch.device) -> TritonDevice:
        if device not in self._devices:
            self._devices[device] = describe_device(device)
        return self._devices[device]

    def launch(
        self, function: str, programs: int, values: dict[str, Any], tile: TritonTile
    ) -> None:
        """Launches one kernel on the current device."""
        if values.get("USE_DESCRIPTORS"):
            _allow_scratch(self.namespace["triton"])
        kernel = self.namespace[function]
        kernel[(programs,)](**values, num_warps=tile.warps, num_stages=tile.stages)

    def keep_list(self, key: tuple[Any, ...], work: dict[str, Any]) -> None:
        """Remembers the tile lists of a mask without data."""
        while len(self._lists) >= LISTS_KEPT:
            self._lists.pop(next(iter(self._lists)))
        self._lists[key] = work

    def kept_list(self, key: tuple[Any, ...]) -> dict[str, Any] | None:
        return self._lists.get(key)


_scratch_allowed = False


def _allow_scratch(triton: Any) -> None:
    """Lets kernels build tensor descriptors, for which Triton asks the caller for memory."""
    global _scratch_allowed
    if _scratch_allowed:
        return

    def allocate(size: int, alignment: int, stream: int | None) -> torch.Tensor:
        return torch.empty(size, dtype=torch.int8, device="cuda")

    triton.set_allocator(allocate)
    _scratch_allowed = True
