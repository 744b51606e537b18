"""Libraries of CPU kernels: built once by the system's C++ compiler, kept in a private cache
folder.

A library is the module's C++ text with its macros (dtype, widths, types of other tensors,
instruction set, width of pair integers). Its name is a digest of all that goes into it, so
libraries are never stale, and processes that build one at once replace it by the same thing.

GCC spends a quarter of a small build on reading the system's headers. From the second library built
with the same flags on, they stand beside the libraries in the form that it has once read.

Environment
    CXX              the compiler (else g++, clang++, c++)
    ATTNC_CPU_ISA    generic, avx2, avx512 (without bfloat16 products), avx512_bf16, amx: this
                     and no other; amx_emulated: the code of amx on tiles in memory, to test it
                     without them (slow)
    ATTNC_CACHE      the cache folder
    ATTNC_CXXFLAGS   flags for the compiler after those given here: -g to look into a kernel, -O1 to
                     build it in half the time
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

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
AVX512_BF16 = (*AVX512, "avx512bf16")
# level -> (name, what the processor must have)
LEVELS: dict[int, tuple[str, tuple[str, ...]]] = {
    0: ("generic", ()),
    2: ("avx2", AVX2),
    3: ("avx512", AVX512),
    4: ("avx512_bf16", AVX512_BF16),
    5: ("amx", (*AVX512_BF16, "amxtile", "amxbf16")),
    6: ("amx_emulated", AVX512_BF16),
}
PAIRS, TILES, EMULATED = 4, 5, 6  # levels: products of pairs of bfloat16, of tiles of them
# Where the compiler spells a feature otherwise than the system.
SPELLED = {"amxtile": "amx-tile", "amxbf16": "amx-bf16"}
# Hidden: the constants of one kernel must never stand in for those of another in the same process.
# Null pointers: GCC 12 writes a loop's address as 0 plus an offset (ivopts), takes its own 0 for a
# pointer that traps, and drops what stands beside it (its stores too).
FLAGS = (
    "-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp",
    "-shared", "-fPIC", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden", "-w",
    "-fno-delete-null-pointer-checks",
)  # fmt: skip


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


def levels_here() -> tuple[str, ...]:
    """The names that ATTNC_CPU_ISA may have on this machine."""
    features = processor_features() if platform.machine() in ("x86_64", "AMD64") else frozenset()
    return tuple(
        name
        for level, (name, needs) in LEVELS.items()
        if features.issuperset(needs) and (level != TILES or tiles_permitted())
    )


def instruction_level() -> int:
    """The level that ATTNC_CPU_ISA asks for, or the best that the machine has."""
    known = {name: level for level, (name, _) in LEVELS.items()}
    here = levels_here()
    asked = os.environ.get("ATTNC_CPU_ISA", "")
    if not asked:
        return max(known[name] for name in here if known[name] != EMULATED)
    if asked in here:
        return known[asked]
    if asked not in known:
        raise UnsupportedError(
            f"ATTNC_CPU_ISA={asked} (known: {', '.join(known)})", "cpu", ("eager",)
        )
    lacks = sorted(set(LEVELS[known[asked]][1]) - processor_features())
    why = f"the processor lacks {', '.join(lacks)}" if lacks else "the system refuses tiles"
    raise UnsupportedError(f"ATTNC_CPU_ISA={asked} on this machine: {why}", "cpu", ("eager",))


@cache
def tiles_permitted() -> bool:
    """Whether Linux lets this process use tile registers, which must be asked for once (their state
    is too large for threads that do not want it)."""
    system_call, ask, tile_data = 158, 0x1023, 18  # arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA
    if platform.system() != "Linux":
        return False
    return int(ctypes.CDLL(None).syscall(system_call, ask, tile_data)) == 0


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


def build_library(source: str, macros: dict[str, str], level: int, effort: str = "-O2") -> Path:
    """The shared library of a C++ text with these macros, compiled unless it is in the cache.

    level: of the instruction set; it is a macro, too. effort: how far the compiler goes."""
    compiler = find_compiler()
    flags = [*FLAGS, effort, *(f"-m{SPELLED.get(need, need)}" for need in LEVELS[level][1])]
    if level >= 3:
        flags.append("-mprefer-vector-width=512")
    flags += shlex.split(os.environ.get("ATTNC_CXXFLAGS", ""))
    macros = {"ATTNC_ISA": str(level), **macros}
    defines = [f"-D{name}={value}" for name, value in sorted(macros.items())]
    content = "\0".join((source, compiler, *flags, *defines))
    digest = hashlib.sha256(content.encode()).hexdigest()[:24]
    folder = library_folder()
    library = folder / f"{digest}.so"
    if library.exists():
        return library
    headers = SystemHeaders(source, compiler, flags, level, folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as work:
            text, built = Path(work) / "kernel.cpp", Path(work) / "kernel.so"
            text.write_text(source, encoding="utf-8")
            command = [compiler, *headers.flags(), *flags, *defines, str(text), "-o", str(built)]
            with headers.made(Path(work)):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{compiler} failed on a kernel:\n{done.stderr[-4000:]}")
            os.replace(built, library)
            headers.note()
    except OSError as error:
        raise _unwritable(error, folder) from None
    return library


class SystemHeaders:
    """The system's headers that a text includes, as GCC has read them with some flags.

    In the cache folder: `<digest>.h` once a library was built with these flags, and the same name
    with `.gch`, made beside the next build. A compiler that does not take the latter reads the
    former."""

    def __init__(
        self, source: str, compiler: str, flags: list[str], level: int, folder: Path
    ) -> None:
        lines = re.findall(r"^#include <[\w.]+>$", source, re.MULTILINE)
        own = [line for line in lines if level or "immintrin" not in line]
        self.text = "".join(f"{line}\n" for line in own)
        self.command = [compiler, *(flag for flag in flags if flag != "-shared")]
        content = "\0".join((self.text, *self.command))
        name = hashlib.sha256(content.encode()).hexdigest()[:24]
        self.header = folder / f"{name}.h"
        self.read = folder / f"{name}.h.gch"
        gcc = "g++" in Path(compiler).name and "clang" not in Path(compiler).name
        self.known = gcc and platform.system() == "Linux" and bool(own)

    def flags(self) -> tuple[str, ...]:
        """What a build says to the compiler to take them."""
        there = self.known and self.header.exists() and self.read.exists()
        return ("-include", str(self.header)) if there else ()

    @contextmanager
    def made(self, work: Path) -> Iterator[None]:
        """Makes them while a library is built, if it is not the first."""
        if not self.known or self.read.exists() or not self.header.exists():
            yield
            return
        made = work / self.read.name
        command = [*self.command, "-x", "c++-header", str(self.header), "-o", str(made)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as compiler:
            yield
        if not compiler.returncode:
            os.replace(made, self.read)

    def note(self) -> None:
        """A library was built: the next build makes them."""
        if not self.known or self.header.exists():
            return
        part = self.header.with_suffix(f".{os.getpid()}")
        part.write_text(self.text, encoding="utf-8")
        os.replace(part, self.header)
