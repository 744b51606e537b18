"""Calls of CPU kernels through their C ABI: the backend of a kernel set, and calls of a known form
with all but their pointers written down."""

from __future__ import annotations

import ctypes
import json
import os
import threading
from typing import Any

import torch

from attnc.runtime.cpu_build import ELEMENTS, PAIRS, build_library, instruction_level
from attnc.runtime.slots import Call

NEEDS_WIDE = 2
# Lengths, positions and numbers up to here fit 32-bit lanes where the table says so.
LARGEST = 2**20


class TensorOfCall(ctypes.Structure):
    """`struct Tensor` of the C ABI: strides in elements."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_int64 * 6),
        ("stride", ctypes.c_int64 * 6),
    )


class CallOfKernel(ctypes.Structure):
    """`struct Call` of the C ABI."""

    _fields_ = (
        ("tensors", ctypes.POINTER(TensorOfCall)),
        ("integers", ctypes.POINTER(ctypes.c_int64)),
        ("reals", ctypes.POINTER(ctypes.c_double)),
        ("threads", ctypes.c_int64),
        ("seed", ctypes.c_int64),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_int64),
        ("too_wide", ctypes.POINTER(ctypes.c_int64)),
    )


_FORKED = False


def _after_fork() -> None:
    """A forked child has no thread of the parent's pool, and waiting for one would never end: its
    kernels run on one thread."""
    global _FORKED
    _FORKED = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class CpuBackend:
    """Runs bound calls on the CPU: `backend(call, wanted) -> outputs`."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.table: dict[str, Any] = json.loads(source.partition("\n")[0].removeprefix("// "))
        self._variants: dict[tuple[Any, ...], Any] = {}
        self._workspaces = threading.local()

    def __call__(self, call: Call, wanted: frozenset[str]) -> tuple[torch.Tensor | None, ...]:
        outputs = tuple(
            call.new_output(output) if output.name in wanted else None
            for output in call.signature.outputs
        )
        integers = self._integers(call)
        wide = not self.table["narrow"] or any(not -LARGEST <= x <= LARGEST for x in integers)
        wide = wide or self._far(call)
        if self._run(call, outputs, integers, wide) == NEEDS_WIDE:
            self._run(call, outputs, integers, True)
        return outputs

    def prepare(self, call: Call, wanted: frozenset[str]) -> PreparedCall | None:
        """The call with all but its pointers written down, for calls of the same form; None where
        the form depends on data (offsets in tensors)."""
        shifts = (call.offset, call.key_offset, call.key_length)
        if any(isinstance(shift, torch.Tensor) for shift in shifts):
            return None
        integers = self._integers(call)
        wide = not self.table["narrow"] or any(not -LARGEST <= x <= LARGEST for x in integers)
        return PreparedCall(self, call, wanted, integers, wide or self._far(call))

    def _integers(self, call: Call) -> list[int]:
        known = call.known
        return [int(known[name]) for name in self.table["integers"]]

    def _far(self, call: Call) -> bool:
        """Whether positions leave what 32-bit lanes were proved for."""
        for shift in (call.offset, call.key_offset):
            if isinstance(shift, torch.Tensor):
                if shift.numel() and int(shift.abs().max()) > LARGEST:
                    return True
            elif not -LARGEST <= shift <= LARGEST:
                return True
        return False

    def _run(
        self,
        call: Call,
        outputs: tuple[torch.Tensor | None, ...],
        integers: list[int],
        wide: bool,
    ) -> int:
        names = (output.name for output in call.signature.outputs)
        present = (name for name, made in zip(names, outputs, strict=True) if made is not None)
        library = self.variant(call, wide, frozenset(present))
        held: list[Any] = [call.tensors[name] for name in self.table["inputs"]]
        held += outputs
        held += [_shift(call.offset), _shift(call.key_offset), _shift(self._key_length(call))]
        tensors = (TensorOfCall * len(held))()
        for place, tensor in enumerate(held):
            if tensor is not None:
                _describe(tensors[place], tensor)
        threads = 1 if _FORKED else torch.get_num_threads()
        too_wide = ctypes.c_int64(0)
        reals = self.table["reals"]
        request = CallOfKernel(
            tensors,
            (ctypes.c_int64 * max(len(integers), 1))(*integers),
            (ctypes.c_double * max(len(reals), 1))(*(float(call.known[name]) for name in reals)),
            threads,
            _signed(call.seed),
            None,
            0,
            ctypes.pointer(too_wide),
        )
        pointer = ctypes.byref(request)
        needed = library.attnc_workspace(pointer)
        workspace = self._workspace(needed)
        request.workspace = (workspace.data_ptr() + 63) // 64 * 64
        request.workspace_bytes = needed
        status: int = library.attnc_run(pointer)
        return status

    def _key_length(self, call: Call) -> Any:
        if call.key_length is not None:
            return call.key_length
        return call.known.get(f"len_{self.table['keys']}", 0)

    def _workspace(self, needed: int) -> torch.Tensor:
        """Memory for one call of this thread, kept while it is small."""
        kept: torch.Tensor | None = getattr(self._workspaces, "kept", None)
        if kept is not None and kept.numel() >= needed + 64:
            return kept
        made = torch.empty(needed + 64, dtype=torch.uint8)
        if needed <= 1 << 24:
            self._workspaces.kept = made
        return made

    def variant(self, call: Call, wide: bool = False, wanted: frozenset[str] | None = None) -> Any:
        """The library for the dtypes and widths of a call, built if need be; where the module can
        leave out what an output needs, for the outputs wanted (None: all)."""
        own = self._own_macros(call, wide, wanted)
        key = (os.environ.get("ATTNC_CPU_ISA", ""), *own.values())
        library = self._variants.get(key)
        if library is None:
            level = instruction_level()
            if level >= PAIRS and not self._all_in_query_dtype(call):
                level = PAIRS - 1
            elif level > PAIRS and call.dtype is not torch.bfloat16:
                level = PAIRS
            library = ctypes.CDLL(str(build_library(self.source, own, level)))
            library.attnc_workspace.restype = ctypes.c_int64
            library.attnc_run.restype = ctypes.c_int
            self._variants[key] = library
        return library

    def _own_macros(self, call: Call, wide: bool, wanted: frozenset[str] | None) -> dict[str, str]:
        """The macros of a call's library, all but the instruction set."""
        table = self.table
        macros = {"ATTNC_ELEMENT": ELEMENTS[call.dtype], "ATTNC_WIDE": str(int(wide))}
        for macro, axis in table["widths"].items():
            macros[macro] = str(call.known[f"len_{axis}"])
        for macro, name in table["types"].items():
            macros[macro] = self._type_name(call, name)
        for macro, name in table.get("wanted", {}).items():
            macros[macro] = "true" if wanted is None or name in wanted else "false"
        return macros

    def _all_in_query_dtype(self, call: Call) -> bool:
        """Whether every operand of a product lies in the query's dtype, so that two of its numbers
        are multiplied at once. (Workspaces in the accumulation type are not.)"""
        operands = self.table["operands"]
        inputs = [call.tensors[name] for name in operands if name in call.tensors]
        kept = set(operands) - set(call.tensors) - set(self.table["query_workspaces"])
        return not kept and all(tensor.dtype is call.dtype for tensor in inputs)

    def _type_name(self, call: Call, name: str) -> str:
        tensor = call.tensors.get(name)
        if tensor is not None:
            return ELEMENTS[tensor.dtype]
        return "int64_t"  # an output of integers


class PreparedCall:
    """A call's C structures, filled in but for the pointers of its tensors: `prepared(tensors)`
    runs
    it on the inputs in the order of the signature, None where the first call left one out."""

    def __init__(
        self,
        backend: CpuBackend,
        call: Call,
        wanted: frozenset[str],
        integers: list[int],
        wide: bool,
    ) -> None:
        table = backend.table
        self.library = backend.variant(call, wide, wanted)
        self.workspace = backend._workspace
        names = list(table["inputs"])
        order = {slot.name: place for place, slot in enumerate(call.signature.inputs)}
        self.inputs = [(place, order[name]) for place, name in enumerate(names)]
        tensors = [call.tensors[name] for name in names]
        self.kept = [call.tensors[name] for name in names if name not in call.given]
        self.outputs = [
            (call.shape(slot), call.new_output_dtype(slot)) if slot.name in wanted else None
            for slot in call.signature.outputs
        ]
        shifts = [call.offset, call.key_offset, backend._key_length(call)]
        self.shifts = [_shift(shift) for shift in shifts]
        held = [*tensors, *(None for _ in self.outputs), *self.shifts]
        filled = (TensorOfCall * len(held))()
        for place, tensor in enumerate(held):
            if tensor is not None:
                _describe(filled[place], tensor)
        for place, form in enumerate(self.outputs, len(names)):
            if form is not None:
                _describe(filled[place], torch.empty(form[0], dtype=form[1]))
        self.form = type(filled)
        self.template = bytes(filled)
        reals = [float(call.known[name]) for name in table["reals"]]
        self.integers = (ctypes.c_int64 * max(len(integers), 1))(*integers)
        self.reals = (ctypes.c_double * max(len(reals), 1))(*reals)
        self.threads = torch.get_num_threads()
        self.seed = _signed(call.seed)
        self.needed = int(self.library.attnc_workspace(ctypes.byref(self._request(filled, 0))))

    def _request(self, tensors: Any, base: int) -> CallOfKernel:
        threads = 1 if _FORKED else self.threads
        return CallOfKernel(
            tensors, self.integers, self.reals, threads, self.seed, base, 0,
            ctypes.pointer(ctypes.c_int64(0)),
        )  # fmt: skip

    def __call__(self, inputs: list[torch.Tensor | None]) -> tuple[torch.Tensor | None, ...] | None:
        """The outputs; None if the kernel asks for wide integers after all."""
        tensors = self.form.from_buffer_copy(self.template)
        for place, source in self.inputs:
            tensor = inputs[source]
            if tensor is not None:
                tensors[place].data = tensor.data_ptr()
        outputs = tuple(
            None if form is None else torch.empty(form[0], dtype=form[1]) for form in self.outputs
        )
        for place, output in enumerate(outputs, len(self.inputs)):
            if output is not None:
                tensors[place].data = output.data_ptr()
        workspace = self.workspace(self.needed)
        request = self._request(tensors, (workspace.data_ptr() + 63) // 64 * 64)
        request.workspace_bytes = self.needed
        status: int = self.library.attnc_run(ctypes.byref(request))
        return None if status == NEEDS_WIDE else outputs


def _describe(entry: TensorOfCall, tensor: torch.Tensor) -> None:
    entry.data = tensor.data_ptr()
    rank = tensor.dim()
    entry.size[:rank] = tensor.shape
    entry.stride[:rank] = tensor.stride()


def _shift(value: Any) -> torch.Tensor:
    """An int, or int64 [batch], as something with a stride along the batch."""
    if isinstance(value, torch.Tensor):
        return value
    return torch.tensor(value, dtype=torch.int64).expand(1 << 30)


def _signed(seed: int) -> int:
    """The low 64 bits of the seed as a signed number."""
    return ctypes.c_int64(seed & (2**64 - 1)).value
