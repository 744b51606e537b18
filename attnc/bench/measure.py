"""Measuring on a noisy machine: interleaved repeats, medians, and the two floors of the machine."""

from __future__ import annotations

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


def matmul_ceiling(dtype: torch.dtype, device: str) -> float:
    """The best rate of a torch matrix product on this machine now, operations a second."""
    size = 8192 if device == "cuda" else 1536
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    timing = interleave({"matmul": lambda: a @ b}, seconds=1.0, most=12)["matmul"]
    return 2.0 * size**3 / min(timing.seconds)


def read_ceiling(device: str) -> float:
    """Bytes a second that a sum over a large tensor reads."""
    elements = 2**28 if device == "cuda" else 2**25
    data = torch.ones(elements, device=device)
    timing = interleave({"sum": lambda: data.sum()}, seconds=1.0, most=12)["sum"]
    return 4.0 * elements / min(timing.seconds)
