"""CPU kernels of an emitted module: built once by the system's C++ compiler, kept in a private
cache
folder, called through a plain C ABI.

A variant is one shared library: the module's C++ text with its macros (dtype, widths, types of
other
tensors, instruction set, width of pair integers). Its name is a digest of all that goes into it, so
libraries are never stale, and processes that build one at once replace it by the same thing.

Environment
    CXX              the compiler (else g++, clang++, c++)
    ATTNC_CPU_ISA    generic, avx2, avx512 (without bfloat16 products), avx512_bf16: at most this
    ATTNC_CACHE      the cache folder
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch

from attnc.runtime.call import Call
from attnc.runtime.failures import CacheError, CompilerNotFound, UnsupportedError

ELEMENTS = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "bf16",
    torch.float16: "f16",
    torch.int64: "int64_t",
    torch.int32: "int32_t",
    torch.int16: "int16_t",
    torch.int8: "int8_t",
    torch.uint8: "uint8_t",
}
AVX2 = ("avx2", "fma", "f16c")
AVX512 = (*AVX2, "avx512f", "avx512bw", "avx512vl", "avx512dq")
# level -> (name, what the processor must have)
LEVELS: dict[int, tuple[str, tuple[str, ...]]] = {
    0: ("generic", ()),
    2: ("avx2", AVX2),
    3: ("avx512", AVX512),
    4: ("avx512_bf16", (*AVX512, "avx512bf16")),
}
# Hidden: the constants of one kernel must never stand in for those of another in the same process.
FLAGS = (
    "-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp",
    "-shared", "-fPIC", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden", "-w",
)  # fmt: skip
PAIRS_LEVEL = 4  # products of pairs of bfloat16
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


# --- The machine -----------------------------------------------------------------------------


def processor_features() -> frozenset[str]:
    """The instruction sets of this processor, as the kernel of the system lists them, without
    underscores; empty where they cannot be read."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].replace("_", "").split())
    return frozenset()


def instruction_level() -> int:
    """The best level that the processor has and ATTNC_CPU_ISA allows."""
    features = processor_features() if platform.machine() in ("x86_64", "AMD64") else frozenset()
    best = max(level for level, (_, needs) in LEVELS.items() if features.issuperset(needs))
    asked = os.environ.get("ATTNC_CPU_ISA", "")
    if not asked:
        return best
    for level, (name, _) in LEVELS.items():
        if name == asked:
            if level > best:
                raise UnsupportedError(
                    f"ATTNC_CPU_ISA={asked} on this processor", "cpu", ("eager",)
                )
            return level
    names = ", ".join(name for name, _ in LEVELS.values())
    raise UnsupportedError(f"ATTNC_CPU_ISA={asked} (known: {names})", "cpu", ("eager",))


def find_compiler() -> str:
    """The C++ compiler to use."""
    asked = os.environ.get("CXX")
    for name in (asked,) if asked else ("g++", "clang++", "c++"):
        found = shutil.which(name)
        if found:
            return found
    raise CompilerNotFound(f"a C++ compiler ({asked or 'g++ or clang++'})", ("eager", "numpy"))


def library_folder() -> Path:
    """The folder of built libraries: private, since code is loaded from it."""
    base = os.environ.get("ATTNC_CACHE")
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attnc"
    folder = (Path(base) if base else default) / "cpu"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise _unwritable(error, folder) from None
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CacheError(f"the cache folder is not private to its owner: {folder}")
    return folder


def _unwritable(error: OSError, folder: Path) -> CacheError:
    why = f"the cache cannot be written ({error.strerror}): {folder}"
    return CacheError(f"{why}. Set ATTNC_CACHE to a folder of yours.")


def build_library(source: str, macros: dict[str, str], level: int) -> Path:
    """The shared library of a C++ text with these macros, compiled unless it is in the cache."""
    compiler = find_compiler()
    flags = [*FLAGS, *(f"-m{need}" for need in LEVELS[level][1])]
    if level >= 3:
        flags.append("-mprefer-vector-width=512")
    defines = [f"-D{name}={value}" for name, value in sorted(macros.items())]
    content = "\0".join((source, compiler, *flags, *defines))
    digest = hashlib.sha256(content.encode()).hexdigest()[:24]
    folder = library_folder()
    library = folder / f"{digest}.so"
    if library.exists():
        return library
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as work:
            text, built = Path(work) / "kernel.cpp", Path(work) / "kernel.so"
            text.write_text(source, encoding="utf-8")
            command = [compiler, *flags, *defines, str(text), "-o", str(built)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{compiler} failed on a kernel:\n{done.stderr[-4000:]}")
            os.replace(built, library)
    except OSError as error:
        raise _unwritable(error, folder) from None
    return library


# --- Calls ------------------------------------------------------------------------------------

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
        table = self.table
        widths = tuple(call.known[f"len_{axis}"] for axis in table["widths"].values())
        types = tuple(self._type_name(call, name) for name in table["types"].values())
        forced = os.environ.get("ATTNC_CPU_ISA", "")
        asked = {
            macro: wanted is None or name in wanted
            for macro, name in table.get("wanted", {}).items()
        }
        key = (call.dtype, widths, types, wide, forced, *asked.values())
        library = self._variants.get(key)
        if library is None:
            level = instruction_level()
            if level == PAIRS_LEVEL and not self._all_in_query_dtype(call):
                level = PAIRS_LEVEL - 1
            macros = {"ATTNC_ELEMENT": ELEMENTS[call.dtype], "ATTNC_ISA": str(level)}
            macros["ATTNC_WIDE"] = str(int(wide))
            macros |= {macro: str(w) for macro, w in zip(table["widths"], widths, strict=True)}
            macros |= dict(zip(table["types"], types, strict=True))
            macros |= {macro: "true" if yes else "false" for macro, yes in asked.items()}
            library = ctypes.CDLL(str(build_library(self.source, macros, level)))
            library.attnc_workspace.restype = ctypes.c_int64
            library.attnc_run.restype = ctypes.c_int
            self._variants[key] = library
        return library

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
