"""Normalizers that are solved for, against the `entmax` package on materialised scores.

The package sorts each row of scores, which attnc never stores. Both are compared with the float64
oracle first, at a length that it can afford; the figures are seconds of processor time of one call
at length 4096, since that is what a loaded machine leaves comparable, and the memory that a
call takes.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from attnc.bench.figures import Figure, measured

LENGTH, CHECKED, HEADS, WIDTH = 4096, 256, 2, 64
BAR = 1 / 3  # of the package's time
LARGEST_ERROR = 1e-5
TEXT = """attention bench(q, k, v):
    mask: j <= i
    score: dot(q[i], k[j]) * scale
    normalize: {}
"""
CASES = {
    "sparsemax": ("sparsemax(j: score)", "sparsemax"),
    "entmax-1.5": ("entmax(j: score, 1.5)", "entmax15"),
}


def run_normalizers(only: tuple[str, ...] = (), calls: int = 3) -> Iterator[Figure]:
    """Every figure of every case whose name holds one of `only`."""
    for name in CASES:
        if not only or any(text in name for text in only):
            yield from _case(name, calls)


def _case(name: str, calls: int) -> Iterator[Figure]:
    import attnc

    line, function = CASES[name]
    text = TEXT.format(line)
    operator = attnc.compile(text, name="bench", backend="cpu")
    error = _error(operator, _inputs(CHECKED))
    yield Figure(f"{name}: largest error over the oracle", error, "", LARGEST_ERROR)
    peer = _peer(function)
    title = f"{name}, {LENGTH} rows: processor time over the entmax package's"
    if peer is None:
        yield Figure(title, None, "x", BAR, "the package `entmax` is not installed")
    else:
        inputs = _inputs(LENGTH)
        own = min(_seconds(lambda: operator(*inputs)) for _ in range(calls))
        other = min(_seconds(lambda: peer(*inputs)) for _ in range(calls))
        note = f"{own:.2f} s, the package {other:.2f} s: {other / own:.1f} times faster"
        yield Figure(title, own / other, "x", BAR, note)
    yield _memory(name, text)


def _inputs(rows: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(1, HEADS, rows, WIDTH, generator=generator) for _ in range(3))


def _error(operator: Any, inputs: tuple[torch.Tensor, ...]) -> float:
    exact = operator.reference(*(x.double() for x in inputs))
    difference = operator(*inputs).double() - torch.as_tensor(exact, dtype=torch.float64)
    return float(difference.abs().max())


def _peer(function: str) -> Callable[..., torch.Tensor] | None:
    """The package on scores that are stored, a causal mask in them."""
    try:
        normalize = getattr(importlib.import_module("entmax"), function)
    except ImportError:
        return None

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = (q @ k.mT) * q.shape[-1] ** -0.5
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
        weights: torch.Tensor = normalize(scores.masked_fill(~seen, -1e4), dim=-1)
        return weights @ v

    return run


def _seconds(run: Callable[[], Any]) -> float:
    """Processor time of a call, of all its threads."""
    start = time.process_time()
    with torch.no_grad():
        run()
    return time.process_time() - start


def _memory(name: str, text: str) -> Figure:
    """The peak of a call beyond its tensors, in numbers for each row: fewer than a tensor has."""
    rows = 4 * LENGTH
    peak = measured("memory", str(rows), "0", text)
    note = f"{peak / 2**20:.1f} MiB; B1 H8, resident pages"
    title = f"{name}: peak memory beyond tensors, float32 numbers a row and head, {rows} rows"
    return Figure(title, peak / (4 * 8 * rows), "", WIDTH, note)


__all__ = ["run_normalizers"]
