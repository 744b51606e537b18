"""Measuring on a noisy machine: interleaved repeats, medians, and the two floors of the machine."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Run = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated calls."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles, as a fraction of the median."""
        if len(self.seconds) < 4:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / 2 / self.median


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def once(run: Run) -> float:
    """Seconds of one call, the device's queue empty before and after."""
    synchronise()
    start = time.perf_counter()
    run()
    synchronise()
    return time.perf_counter() - start


def interleave(runs: Mapping[str, Run], seconds: float = 2.0, most: int = 60) -> dict[str, Timing]:
    """Times every run in turn, again and again, for about `seconds` in all; the order alternates.

    Two warm-up calls each come first."""
    for run in runs.values():
        run()
        run()
    names = list(runs)
    once_each = sum(once(runs[name]) for name in names)
    rounds = max(5, min(most, int(seconds / max(once_each, 1e-6))))
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            taken[name].append(once(runs[name]))
    return {name: Timing(tuple(times)) for name, times in taken.items()}


def multiply_ceiling(dtype: torch.dtype, device: str) -> float:
    """The most operations a second that products can reach here and now.

    On the CPU: the instruction that the kernels multiply with, on registers alone
    (templates/cpu/ceiling.hpp). On a GPU: torch's own product of large matrices."""
    if device == "cuda":
        a = torch.randn(8192, 8192, device=device).to(dtype)
        taken = interleave({"product": lambda: a @ a}, seconds=1.0, most=12)["product"]
        return 2.0 * 8192**3 / min(taken.seconds)
    run = _ceiling_library(dtype).attnc_ceiling
    run.restype, run.argtypes = ctypes.c_double, (ctypes.c_int64, ctypes.c_int64)
    rates: list[float] = []
    for _ in range(12):
        start = time.perf_counter()
        operations = run(torch.get_num_threads(), 2**20)
        rates.append(operations / (time.perf_counter() - start))
    return max(rates)


def _ceiling_library(dtype: torch.dtype) -> ctypes.CDLL:
    from attnc.backends.cpu import HEADERS, headers
    from attnc.runtime.cpu_build import ELEMENTS, build_library, instruction_level

    level = instruction_level()
    macros = {"ATTNC_ELEMENT": ELEMENTS[dtype], "ATTNC_ISA": str(level), "ATTNC_WIDE": "0"}
    return ctypes.CDLL(str(build_library(headers((*HEADERS, "ceiling")), macros, level)))


def read_ceiling(device: str) -> float:
    """Bytes a second that a sum over a large tensor reads."""
    elements = 2**28 if device == "cuda" else 2**25
    data = torch.ones(elements, device=device)
    timing = interleave({"sum": lambda: data.sum()}, seconds=1.0, most=12)["sum"]
    return 4.0 * elements / min(timing.seconds)
