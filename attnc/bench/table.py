"""Runs the bench set and prints its table."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from attnc.bench.measure import Timing, interleave, read_ceiling
from attnc.bench.peers import Peer, check_peer, peers_of
from attnc.bench.suite import BenchCase, Tensors

HELD = 0.95  # a bar holds when the median of the runs is at least this much of it


@dataclass(frozen=True)
class Row:
    """One case in one dtype."""

    case: BenchCase
    dtype: str
    attnc: Timing
    ratios: dict[str, list[float]]
    reasons: dict[str, str]
    setups: dict[str, float]
    notes: dict[str, str]
    operations: float
    bytes_least: float
    error: float
    compile_seconds: float
    machine: dict[str, float] = field(default_factory=dict)

    def ratio(self, peer: str) -> float | None:
        """The median over the runs of how much faster attnc is."""
        found = sorted(self.ratios.get(peer, ()))
        return found[len(found) // 2] if found else None

    def holds(self, peer: str) -> bool | None:
        """Whether the bar against a peer holds; None where there is no bar or no peer."""
        bar, ratio = self.case.bars.get((self.dtype, peer)), self.ratio(peer)
        return None if bar is None or ratio is None else ratio >= HELD * bar


def make_tensors(case: BenchCase, dtype: torch.dtype, device: str) -> Tensors:
    """q, k, v (contiguous, batch 1) and the case's further inputs."""
    generator = torch.Generator().manual_seed(0)

    def draw(length: int) -> torch.Tensor:
        shape = (1, case.heads, length, case.width)
        return torch.randn(shape, generator=generator).to(dtype).to(device)

    tensors = {"q": draw(case.rows), "k": draw(case.keys), "v": draw(case.keys)}
    return {**tensors, **case.extra(tensors)}


def visible_pairs(case: BenchCase, tensors: Tensors) -> int:
    """How many (row, key) pairs of one head are visible."""
    from attnc.bench.peers import materialised

    if case.visible is None and "doc" not in tensors:
        return case.rows * case.keys
    bias = materialised(case, tensors)
    seen = bias if bias.dtype is torch.bool else bias.isfinite()
    return int(seen.flatten(0, -3)[0].sum() if seen.dim() > 2 else seen.sum())


def check_result(case: BenchCase, operator: Any, tensors: Tensors, result: torch.Tensor) -> float:
    """The relative error of a timed shape against the oracle, on one head; raises if it is
    wrong."""
    from attnc.verification import relative_errors

    one = {name: value[:, :1] if value.dim() == 4 else value for name, value in tensors.items()}
    one = {n: t[:1] if t.dim() and n in ("slope", "sink", "table") else t for n, t in one.items()}
    rows = min(case.rows, 192)
    one["q"] = one["q"][:, :, case.rows - rows :]
    numbers = dict(case.numbers)
    offset = case.offset + case.rows - rows
    if "height" in numbers:  # a grid has all its rows: the whole head
        one["q"], offset, rows = tensors["q"][:, :1], 0, case.rows
    truth = operator.reference(**one, **numbers, offset=offset)
    error, _ = relative_errors(result[:, :1, -rows:].double().cpu().numpy(), truth, 3)
    if not error < 0.02:
        from attnc.errors import AttncError

        raise AttncError(f"bench: {case.name} is wrong (relative error {error:.1e})")
    return error


def run_case(case: BenchCase, dtype: torch.dtype, device: str, runs: int, seconds: float) -> Row:
    """Compiles, checks against the oracle, then times attnc and its peers interleaved."""
    import time

    import attnc

    start = time.perf_counter()
    imports = "from grid import near\n" if "near(" in case.body else ""
    operator = attnc.compile(imports + case.text, name="bench", **case.statics)
    tensors = make_tensors(case, dtype, device)
    offset = {"offset": case.offset} if case.offset else {}

    def call() -> torch.Tensor:
        result: torch.Tensor = operator(**tensors, **case.numbers, **offset)
        return result

    with torch.no_grad():
        result = call()
        compile_seconds = time.perf_counter() - start
        error = check_result(case, operator, tensors, result)
        peers = peers_of(case, tensors)
        ratios: dict[str, list[float]] = {}
        timing = Timing((0.0,))
        for _ in range(runs):
            timing = _time_once(call, peers, result, ratios, seconds)
    name = str(dtype).removeprefix("torch.")
    pairs = visible_pairs(case, tensors) * case.heads
    least = sum(t.numel() * t.element_size() for t in tensors.values())
    least += result.numel() * result.element_size()
    return Row(
        case,
        name,
        timing,
        ratios,
        {peer.name: peer.reason for peer in peers if peer.run is None},
        {peer.name: peer.setup_seconds for peer in peers if peer.setup_seconds},
        {peer.name: peer.note for peer in peers if peer.note},
        4.0 * case.width * pairs,
        float(least),
        error,
        compile_seconds,
    )


def _time_once(
    call: Any,
    peers: list[Peer],
    result: torch.Tensor,
    ratios: dict[str, list[float]],
    seconds: float,
) -> Timing:
    runs = {"attnc": call}
    for peer in peers:
        if peer.run is not None:
            check_peer(peer.name, peer.run(), result.double())
            runs[peer.name] = peer.run
    times = interleave(runs, seconds)
    for name in runs:
        if name != "attnc":
            ratios.setdefault(name, []).append(times[name].median / times["attnc"].median)
    return times["attnc"]


def run_set(
    cases: Iterable[BenchCase],
    dtypes: tuple[torch.dtype, ...],
    device: str,
    runs: int = 3,
    seconds: float = 2.0,
) -> Iterator[Row]:
    """One row for each case and dtype."""
    for dtype in dtypes:
        for case in cases:
            yield run_case(case, dtype, device, runs, seconds)


def machine_line(device: str, ceilings: Mapping[str, float]) -> str:
    """Processor, threads, versions and the ceilings measured now (operations a second by dtype)."""
    rates = ", ".join(f"{dtype} products {rate / 1e9:.0f}" for dtype, rate in ceilings.items())
    where = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return (
        f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python "
        f"{platform.python_version()}; at most {rates} GFLOP/s, read "
        f"{read_ceiling(device) / 1e9:.0f} GB/s"
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor() or platform.machine()
