"""What a call costs beside its kernel, as single figures: overhead, memory, recompiles, start-up.

Each figure is measured, has a bar, and says in a note how it was taken. What the machine cannot
measure, or an operator cannot do yet, has no number.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attnc.bench.suite import CAUSAL
from attnc.errors import AttncError, UnsupportedError

TEXT = f"attention bench(q, k, v):\n{CAUSAL}"
OVERHEAD, OVERHEAD_TRAINING = 25e-6, 60e-6  # seconds
COLD, CHECK, IMPORT = 3.0, 0.5, 0.3  # seconds
LENGTHS = (1024, 4096, 16384)
ENTRY = "from attnc.cli import main; main()"
GROWTH = 1.25  # how much faster than the length memory may grow
FORMS = (1, 2, 3, 17, 31, 64, 65, 100, 127, 128, 129, 200, 255, 257, 333, 384, 511, 512, 640, 777)


@dataclass(frozen=True)
class Figure:
    """One number beside its bar (at most); `value` None where `note` says why there is none."""

    name: str
    value: float | None
    unit: str
    bar: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether it is within its bar."""
        return None if self.bar is None or self.value is None else self.value <= self.bar


def run_figures() -> Iterator[Figure]:
    """Every figure, the cheap ones first."""
    yield from overheads()
    yield from start_up()
    yield from recompiles()
    yield from memory()


# --- Overhead ------------------------------------------------------------------------------------


def fastest(run: Callable[[], Any], calls: int = 300, repeats: int = 15) -> float:
    """Seconds of one call: the median over repeats of the mean over calls."""
    for _ in range(calls):
        run()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            run()
        found.append((time.perf_counter() - start) / calls)
    return statistics.median(found)


def overheads() -> Iterator[Figure]:
    """The public call beyond its kernel at one head, length 1, width 16."""
    import attnc

    operator = attnc.compile(TEXT, name="bench", backend="cpu")
    q, k, v = (torch.randn(1, 1, 1, 16) for _ in range(3))
    kernel = fastest(bare_kernel(operator, (q, k, v)))
    note = f"the kernel alone takes {kernel * 1e6:.1f} us"
    with torch.no_grad():
        whole = fastest(lambda: operator(q, k, v))
    yield Figure("overhead of a call", (whole - kernel) * 1e6, "us", OVERHEAD * 1e6, note)
    name, bar = "overhead of a call that records gradients", OVERHEAD_TRAINING * 1e6
    q.requires_grad_()
    try:
        operator(q, k, v).sum().backward()
    except UnsupportedError:
        yield Figure(name, None, "us", bar, "not yet: there is no backward")
        return
    yield Figure(name, (fastest(lambda: operator(q, k, v)) - kernel) * 1e6, "us", bar, note)


def bare_kernel(operator: Any, inputs: tuple[torch.Tensor, ...]) -> Callable[[], int]:
    """The C function of a call with nothing around it but ctypes."""
    from attnc.backends.cpu import emit
    from attnc.runtime.call import check_call
    from attnc.runtime.cpu_calls import CpuBackend, Frame

    backend = CpuBackend(emit(operator.stages.schedule))
    signature = operator.module.operator.signature
    call = check_call(signature, dict(zip("qkv", inputs, strict=True)), {}, {})
    prepared = backend.prepare(call, frozenset({"out"}))
    frame, outputs = prepared.fill(list(inputs))
    memory, frame.words[Frame.WORKSPACE] = prepared.workspace(prepared.needed)
    run = prepared.library.attnc_run
    held = (prepared, frame, outputs, memory, inputs)  # what it points to lives as the closure does

    def kernel() -> int:
        return int(run(frame.address)) if held else 0

    return kernel


# --- Start-up ------------------------------------------------------------------------------------


def start_up() -> Iterator[Figure]:
    """Cold compile of a kernel, `attnc check`, and the import, each in processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "bench.attn"
        spec.write_text(TEXT, encoding="utf-8")
        cold = (measured("cold", str(spec), ATTNC_CACHE=f"{folder}/{n}") for n in range(3))
        seconds = statistics.median(cold)
        note = "text to first result, the median of 3 empty caches"
        yield Figure("cold compile of a CPU kernel", seconds, "s", COLD, note)
        command = [sys.executable, "-c", ENTRY, "check", str(spec)]
        yield Figure("attnc check", best_of(command), "s", CHECK, "the whole process, best of 5")
    imports = min(measured("import") for _ in range(5))
    yield Figure("import attnc beyond torch's own", imports, "s", IMPORT, "best of 5")


def best_of(command: list[str], repeats: int = 5) -> float:
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, check=False)
        found.append(time.perf_counter() - start)
        if done.returncode:
            raise AttncError(f"bench: {' '.join(command[1:])} failed")
    return min(found)


def measured(*arguments: str, **environment: str) -> float:
    """The number that `python -m attnc.bench.probe` prints."""
    import os

    command = [sys.executable, "-m", "attnc.bench.probe", *arguments]
    whole = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=whole, check=False)
    if done.returncode:
        raise AttncError(f"bench: {' '.join(command[1:])} failed: {done.stderr[-500:]}")
    return float(json.loads(done.stdout))


# --- Recompiles ----------------------------------------------------------------------------------


def recompiles() -> Iterator[Figure]:
    """What 20 lengths and two batches compile after the first call."""
    import attnc

    operator = attnc.compile(TEXT, name="bench", backend="cpu")
    built = count_builds(operator)
    for _ in all_forms(operator):
        pass
    note = f"{len(FORMS)} lengths, 2 batches"
    yield Figure("C++ builds after the first call", float(built()), "", 0.0, note)
    yield Figure(
        "torch.compile(dynamic=True) recompiles", float(graphs(operator) - 1), "", 0.0, note
    )
    yield triton_compiles(note)


def all_forms(run: Callable[..., Any], device: str = "cpu") -> Iterator[int]:
    """Calls at every length of two batches; the first call stands before the first yield."""
    with torch.no_grad():
        for number, (batch, length) in enumerate((b, n) for b in (1, 3) for n in FORMS):
            q = torch.randn(batch, 2, length, 16, device=device)
            run(q, q, q)
            yield number


def count_builds(operator: Any) -> Callable[[], int]:
    """How many libraries the operator asks for from its first call on, without that one."""
    namespace = vars(operator.module)
    build, count = namespace["build_library"], [0]

    def counted(*args: Any) -> Any:
        count[0] += 1
        return build(*args)

    namespace["build_library"] = counted
    q = torch.randn(1, 2, 5, 16)
    operator(q, q, q)
    count[0] = 0
    return lambda: count[0]


def graphs(operator: Any) -> int:
    """How many graphs Dynamo makes of a function with the operator in it."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")

    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Any:
        return operator(q * 2, k, v) + 1

    compiled = torch.compile(function, backend=counter, dynamic=True)
    # Dynamo takes sizes that are equal in the first call for one, and makes a size of 1 a variant.
    lengths = sorted(FORMS[1:], key=lambda length: length == 3)
    with torch.no_grad():
        for batch, length in ((b, n) for b in (3, 5) for n in lengths):
            q, k, v = (torch.randn(batch, 4, length, 16) for _ in range(3))
            compiled(q, k, v)
    torch._dynamo.reset()
    return int(counter.frame_count)


def triton_compiles(note: str) -> Figure:
    """Kernels that Triton compiles after the first call, on a GPU."""
    name = "Triton compiles after the first call"
    if not torch.cuda.is_available():
        return Figure(name, None, "", 0.0, "no GPU")
    import attnc

    operator = attnc.compile(TEXT, name="bench", backend="triton")
    counts = [compiled_kernels(operator) for _ in all_forms(operator, "cuda")]
    return Figure(name, float(counts[-1] - counts[0]), "", 0.0, note)


def compiled_kernels(operator: Any) -> int:
    """How many variants Triton holds of the kernels of a module."""
    total = 0
    for function in vars(operator.module).values():
        for cache in getattr(function, "device_caches", {}).values():
            total += len(cache[0])
    return total


# --- Memory --------------------------------------------------------------------------------------


def memory() -> Iterator[Figure]:
    """The peak beyond inputs and outputs, which must grow no faster than the length."""
    for training in (False, True):
        what = "forward + backward" if training else "forward"
        before: float | None = None
        for length in LENGTHS:
            name = f"peak memory of {what} beyond its tensors, length {length}"
            try:
                found = measured("memory", str(length), str(int(training))) / 2**20
            except AttncError as error:
                reason = "not yet: there is no backward" if "Unsupported" in str(error) else "fails"
                yield Figure(name, None, "MiB", None, reason)
                break
            # Below a MiB a page here or there decides: there the bar is a MiB.
            ratio = length / LENGTHS[max(LENGTHS.index(length) - 1, 0)]
            bar = None if before is None else max(before * ratio * GROWTH, 1.0)
            yield Figure(
                name, found, "MiB", bar, "B1 H8, width 64, float32, causal; resident pages"
            )
            before = found
