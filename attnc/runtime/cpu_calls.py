"""Calls of CPU kernels through their C ABI.

A call becomes a frame: one piece of memory with all the C structures that a kernel reads. A form of
call keeps its frames, and calling it again writes pointers alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
from typing import Any

import torch

from attnc.runtime.cpu_build import ELEMENTS, PAIRS, build_library, instruction_level
from attnc.runtime.slots import SHIFTS, Call

NEEDS_WIDE = 2
# Lengths, positions and numbers up to here fit 32-bit lanes where the table says so.
LARGEST = 2**20
ONE_BY_ONE = 64  # entries that are looked at one by one rather than by torch
# From this many bytes results are fresh memory at every call, whose pages the system fills with
# zeros as they are first touched: as large pages, where it may, at a fifth of the time.
LARGE = 8 << 20
LARGE_PAGE = 2 << 20
ADVISE_LARGE = 14  # MADV_HUGEPAGE


class TensorOfCall(ctypes.Structure):
    """`struct Tensor` of the C ABI: strides in elements."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_int64 * 8),
        ("stride", ctypes.c_int64 * 8),
    )


class CallOfKernel(ctypes.Structure):
    """`struct Call` of the C ABI."""

    _fields_ = (
        ("tensors", ctypes.c_void_p),
        ("integers", ctypes.c_void_p),
        ("reals", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
        ("seed", ctypes.c_int64),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_int64),
        ("too_wide", ctypes.c_void_p),
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
        outputs = PreparedCall(self, call, wanted, self._wide(call)).first(call)
        if outputs is None:
            outputs = PreparedCall(self, call, wanted, True).first(call)
        assert outputs is not None
        return outputs

    def prepare(self, call: Call, wanted: frozenset[str]) -> PreparedCall:
        """The call with all but its pointers written down, for calls of the same form."""
        return PreparedCall(self, call, wanted, self._wide(call))

    def _wide(self, call: Call) -> bool:
        """Whether numbers or positions leave what 32-bit lanes were proved for."""
        if not self.table["narrow"]:
            return True
        moves = (call.offset, call.key_offset)
        numbers = [call.known[name] for name in self.table["integers"]]
        return not all(
            -LARGEST <= bound <= LARGEST for one in (*numbers, *moves) for bound in _bounds_of(one)
        )

    def workspace(self, needed: int) -> tuple[torch.Tensor, int]:
        """Memory for one call of this thread, kept while it is small, and its address."""
        kept: tuple[torch.Tensor, int] | None = getattr(self._workspaces, "kept", None)
        if kept is None or kept[0].numel() < needed + 64:
            memory = torch.empty(needed + 64, dtype=torch.uint8)
            if memory.nbytes >= LARGE:
                _in_large_pages(memory)
            kept = (memory, (memory.data_ptr() + 63) // 64 * 64)
            if needed <= 1 << 26:
                self._workspaces.kept = kept
        return kept

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
            library = ctypes.CDLL(str(build_library(self.source, own, level, self.table["effort"])))
            library.attnc_workspace.restype = ctypes.c_int64
            library.attnc_workspace.argtypes = library.attnc_run.argtypes = (ctypes.c_void_p,)
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
        for macro, name in table.get("given", {}).items():
            macros[macro] = "true" if name in call.tensors else "false"
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


class Frame:
    """The structures of one call in one piece of memory, as words of 64 bits that hold what
    `template` holds, with the pointers between them: the call, where a kernel says that it needs
    wide integers, the tensors."""

    __slots__ = ("address", "memory", "words")
    TENSORS, THREADS, WORKSPACE, WORKSPACE_BYTES, TOO_WIDE_AT, TOO_WIDE = 0, 3, 5, 6, 7, 8
    FIXED = 9  # words before the tensors

    def __init__(self, template: bytes) -> None:
        self.memory = ctypes.create_string_buffer(template, len(template))
        self.address = ctypes.addressof(self.memory)
        self.words = memoryview(self.memory).cast("B").cast("q")
        self.words[self.TENSORS] = self.address + self.FIXED * 8
        self.words[self.TOO_WIDE_AT] = self.address + self.TOO_WIDE * 8


class PreparedCall:
    """A form of call: `prepared(tensors)` runs it on the inputs in the order of the signature (None
    where the first call left one out), followed by `offset`, `key_offset` and `key_length` where
    these are tensors. Gives the outputs; None where the call must be looked at anew: it needs wide
    integers after all, or its lengths are not within their bounds."""

    def __init__(self, backend: CpuBackend, call: Call, wanted: frozenset[str], wide: bool) -> None:
        table, signature = backend.table, call.signature
        self.library = backend.variant(call, wide, wanted)
        self.run = self.library.attnc_run
        self.workspace = backend.workspace
        names = list(table["inputs"])
        order = {slot.name: place for place, slot in enumerate(signature.inputs)}
        self.inputs = [
            (_word(place), order[name]) for place, name in enumerate(names) if name in call.given
        ]
        self.kept = [call.tensors.get(name) for name in names if name not in call.given]
        self.outputs = [
            (_word(place), call.shape(slot), call.new_output_dtype(slot))
            if slot.name in wanted
            else None
            for place, slot in enumerate(signature.outputs, len(names))
        ]
        length = call.key_length
        if length is None:
            length = call.known.get(f"len_{table['keys']}", 0)
        shifts = (call.offset, call.key_offset, length)
        far = 2**62 if wide else LARGEST
        bounds = ((-far, far), (-far, far), (0, call.known.get(f"len_{signature.keys}", 0)))
        self.numbers = (ctypes.c_int64 * len(SHIFTS))()  # shifts that are no tensors
        outputs = [None if form is None else torch.Size(form[1]) for form in self.outputs]
        held = [*(call.tensors.get(name) for name in names), *outputs, *shifts]
        filled = (TensorOfCall * len(held))()
        self.shifts = []
        for place, one in enumerate(held):
            number = place - len(names) - len(outputs)
            if isinstance(one, torch.Tensor):
                _describe(filled[place], one)
            elif isinstance(one, torch.Size):
                _describe_new(filled[place], one)
            elif one is not None:
                self.numbers[number] = one
                filled[place].data = ctypes.addressof(self.numbers) + 8 * number
                filled[place].size[0] = 1 << 30
            if number >= 0 and isinstance(one, torch.Tensor):
                self.shifts.append((_word(place), len(order) + number, *bounds[number]))
        integers = [int(call.known[name]) for name in table["integers"]]
        reals = [float(call.known[name]) for name in table["reals"]]
        self.integers = (ctypes.c_int64 * max(len(integers), 1))(*integers)
        self.reals = (ctypes.c_double * max(len(reals), 1))(*reals)
        self.threads = torch.get_num_threads()
        request = CallOfKernel(
            None, ctypes.addressof(self.integers), ctypes.addressof(self.reals), self.threads,
            _signed(call.seed), None, 0, None,
        )  # fmt: skip
        self.template = bytes(request) + bytes(8) + bytes(filled)
        frame = Frame(self.template)
        self.needed = int(self.library.attnc_workspace(frame.address))
        frame.words[Frame.WORKSPACE_BYTES] = self.needed
        self.template = bytes(frame.memory)
        self.frames = [frame]

    def first(self, call: Call) -> tuple[torch.Tensor | None, ...] | None:
        """The outputs of the call that this was made from, whose tensors the caller holds."""
        frame = self.frames.pop()
        return self.done(frame, self._new_outputs(frame))

    def __call__(self, inputs: list[torch.Tensor | None]) -> tuple[torch.Tensor | None, ...] | None:
        frame, outputs = self.fill(inputs)
        for _, source, low, high in self.shifts:
            least, most = _bounds_of(inputs[source])
            if least < low or most > high:
                return None
        return self.done(frame, outputs)

    def fill(
        self, inputs: list[torch.Tensor | None]
    ) -> tuple[Frame, tuple[torch.Tensor | None, ...]]:
        """A frame with the pointers of these inputs and of new outputs, and these."""
        try:
            frame = self.frames.pop()  # no other thread gets this one
        except IndexError:
            frame = Frame(self.template)
        words = frame.words
        for word, source in self.inputs:
            words[word] = inputs[source].data_ptr()  # type: ignore[union-attr]
        for word, source, _, _ in self.shifts:
            words[word] = inputs[source].data_ptr()
        return frame, self._new_outputs(frame)

    def _new_outputs(self, frame: Frame) -> tuple[torch.Tensor | None, ...]:
        outputs: list[torch.Tensor | None] = []
        for form in self.outputs:
            if form is None:
                outputs.append(None)
                continue
            word, shape, dtype = form
            made = torch.empty(shape, dtype=dtype)
            if made.nbytes >= LARGE:
                _in_large_pages(made)
            frame.words[word] = made.data_ptr()
            outputs.append(made)
        return tuple(outputs)

    def done(self, frame: Frame, outputs: Any) -> tuple[torch.Tensor | None, ...] | None:
        """Runs a filled frame and takes it back; the outputs, None where it needs wide integers."""
        words = frame.words
        words[Frame.THREADS] = 1 if _FORKED else self.threads
        memory, words[Frame.WORKSPACE] = self.workspace(self.needed)
        status = self.run(frame.address)
        self.frames.append(frame)
        del memory
        return None if status == NEEDS_WIDE else outputs


def _in_large_pages(tensor: torch.Tensor) -> None:
    """Asks the system for large pages where a tensor fills them; it may do otherwise."""
    if _advise is None:
        return
    start = tensor.data_ptr()
    first = -(-start // LARGE_PAGE) * LARGE_PAGE
    size = (start + tensor.nbytes - first) // LARGE_PAGE * LARGE_PAGE
    if size > 0:
        _advise(first, size, ADVISE_LARGE)


def _find_advise() -> Any:
    """The system's madvise; None where it knows no large pages."""
    if not sys.platform.startswith("linux"):
        return None
    found = getattr(ctypes.CDLL(None), "madvise", None)
    if found is not None:
        found.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return found


_advise = _find_advise()


def _word(place: int) -> int:
    """Where a frame has the pointer of a tensor."""
    return Frame.FIXED + place * (ctypes.sizeof(TensorOfCall) // 8)


def _describe(entry: TensorOfCall, tensor: torch.Tensor) -> None:
    entry.data = tensor.data_ptr()
    rank = tensor.dim()
    entry.size[:rank] = tensor.shape
    entry.stride[:rank] = tensor.stride()


def _describe_new(entry: TensorOfCall, shape: torch.Size) -> None:
    """A tensor as torch makes it."""
    stride = 1
    for axis in range(len(shape) - 1, -1, -1):
        entry.size[axis], entry.stride[axis] = shape[axis], stride
        stride *= max(shape[axis], 1)


def _bounds_of(value: Any) -> tuple[int, int]:
    """The least and the largest of an int or a tensor of integers; (0, 0) of none."""
    if not isinstance(value, torch.Tensor):
        return value, value
    if value.numel() > ONE_BY_ONE:
        low, high = torch.aminmax(value)
        return int(low), int(high)
    entries = value.tolist()
    if isinstance(entries, int):
        return entries, entries
    return (min(entries), max(entries)) if entries else (0, 0)


def _signed(seed: int) -> int:
    """The low 64 bits of the seed as a signed number."""
    return ctypes.c_int64(seed & (2**64 - 1)).value
