"""What recurrences cost beside their ratios to torch: from which length they beat softmax, how they
grow with the length, what a step costs, and what errors hostile decays leave.

Each figure has a bar where the task sets one. The yardstick of an error is the sequential form in
float32, its truth the same in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from attnc.bench.figures import Figure
from attnc.bench.measure import interleave
from attnc.bench.recurrences import CASES, HEADS, WIDTH, ScanCase, called

Array = npt.NDArray[Any]
SOFTMAX = (
    "attention bench(q, k, v):\n    mask: j <= i\n    normalize: softmax(j: dot(q, k) * scale)\n"
)
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
LONG = 65536
GROWN = (4096, 16384)  # rows of shorter calls; a longer one must take as long a row
GROWTH = 1.15
STEADY = 1.15  # a step's time at the last position over that at the first
POSITIONS = (0, 256, 4096)
LARGEST = 2.0  # error over that of the sequential form
REGIMES = 4  # heads of a hostile call


def run_scan_figures(only: tuple[str, ...] = (), longest: int = LONG) -> Iterator[Figure]:
    """Every figure of every case."""
    import attnc

    softmax = attnc.compile(SOFTMAX, name="bench", backend="cpu")
    for case in CASES:
        if only and not any(text in case.name for text in only):
            continue
        operator = attnc.compile(case.text, name="bench", backend="cpu")
        yield crossing(case, operator, softmax)
        yield growth(case, operator, longest)
        yield from steps(case, operator)
        for dtype in (torch.float32, torch.bfloat16):
            yield stability(case, operator, dtype, longest, WIDTH)


# --- Time ---------------------------------------------------------------------------------------


def crossing(case: ScanCase, operator: Any, softmax: Any) -> Figure:
    """The length from which the operator is faster than causal softmax; between two lengths of the
    list it is where the ratio, as a power of the length, is 1."""
    ratios = []
    for rows in LENGTHS:
        tensors = case.tensors(rows)
        first = list(tensors.values())[:3]
        runs = {
            "state": lambda tensors=tensors: called(operator, tensors),
            "softmax": lambda first=first: softmax(*first),
        }
        times = interleave(runs, 0.3)
        ratios.append(times["softmax"].median / times["state"].median)
    note = ", ".join(f"{rows}: {x:.2f}" for rows, x in zip(LENGTHS, ratios, strict=True))
    name = f"{case.name}: faster than causal softmax from"
    return Figure(name, _crossed(ratios), "rows", None, f"softmax over it, by rows: {note}")


def _crossed(ratios: list[float]) -> float | None:
    """Where the ratio passes 1 for good."""
    if ratios[-1] < 1:
        return None
    last = max((n for n, ratio in enumerate(ratios) if ratio < 1), default=-1)
    if last < 0:
        return float(LENGTHS[0])
    low, high = math.log(ratios[last]), math.log(ratios[last + 1])
    part = -low / (high - low)
    return float(round(LENGTHS[last] * (LENGTHS[last + 1] / LENGTHS[last]) ** part))


def growth(case: ScanCase, operator: Any, longest: int) -> Figure:
    """The time of a row of the longest call over that of the next one. (Results of more than 32 MiB
    are pages that the system maps anew for each call, here from about 16k rows.)"""
    seconds = {}
    for rows in (*(rows for rows in GROWN if rows < longest), longest):
        tensors = case.tensors(rows)
        run = {"call": lambda tensors=tensors: called(operator, tensors)}
        seconds[rows] = min(interleave(run, 2.0, most=20)["call"].seconds) / rows
    note = ", ".join(f"{rows} rows: {x * 1e6:.2f} us a row" for rows, x in seconds.items())
    *_, short, long = seconds
    name = f"{case.name}: time of a row, {long} over {short}"
    return Figure(name, seconds[long] / seconds[short], "", GROWTH, note)


def steps(case: ScanCase, operator: Any) -> Iterator[Figure]:
    """The time of a decoding step after calls of several lengths, and the bytes it goes on from."""
    tensors = case.tensors(POSITIONS[-1])
    row = {name: x[:, :, 0].contiguous() for name, x in tensors.items()}
    states = {}
    for rows in POSITIONS:
        part = {name: x[:, :, :rows].contiguous() for name, x in tensors.items()}
        states[rows] = called(operator, part, return_state=True)[1]
    runs = {
        str(rows): lambda state=state: operator.step(state, **row) for rows, state in states.items()
    }
    times = interleave(runs, 1.0, most=2000)
    first, last = times[str(POSITIONS[0])].median, times[str(POSITIONS[-1])].median
    note = ", ".join(f"at {name}: {x.median * 1e6:.0f} us" for name, x in times.items())
    name = f"{case.name}: step, at {POSITIONS[-1]} over at {POSITIONS[0]}"
    yield Figure(name, last / first, "", STEADY, note)
    kept = sum(x.numel() * x.element_size() for x in _leaves(states[POSITIONS[-1]]))
    wanted = HEADS * WIDTH * WIDTH * 4
    yield Figure(f"{case.name}: a state", kept / 1024, "KiB", wanted / 1024, "in float32")


def _leaves(state: Any) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state
    return [leaf for value in values for leaf in _leaves(value)]


# --- Errors -------------------------------------------------------------------------------------


def hostile(case: ScanCase, rows: int, width: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A call whose heads have decays of other kinds: any from 1e-6 to 1, almost 1, 1 with resets (a
    log decay of -inf), all but 0."""
    draw = torch.Generator().manual_seed(1)
    shape = (1, REGIMES, rows, width)
    q, k, v = (torch.randn(shape, generator=draw) for _ in range(3))
    found = {"q": q * width**-0.5, "k": torch.nn.functional.normalize(k, dim=-1), "v": v}
    for name, wide in case.gates:
        drawn = torch.rand(shape if wide else shape[:-1], generator=draw)
        if name == "g":
            drawn = drawn * math.log(1e-6)
            drawn[:, 1] *= 1e-6
            drawn[:, 2] = 0
            drawn[:, 2, ::97] = -math.inf
            drawn[:, 3] = math.log(1e-6)
        found[name] = drawn
    return {name: x.to(dtype) for name, x in found.items()}


def sequential(tensors: dict[str, torch.Tensor], kind: type) -> Array:
    """The operators of CASES one row after another in the precision of `kind`: [h, t, e]."""
    every: dict[str, Array] = {
        name: x[0].float().numpy().astype(kind) for name, x in tensors.items()
    }
    q, k, v = (every[name] for name in "qkv")
    decay = np.exp(every["g"]).reshape(*k.shape[:2], -1, 1)
    beta = every.get("beta")
    state: Array = np.zeros((k.shape[0], k.shape[2], v.shape[2]), kind)
    out = np.empty_like(v)
    for t in range(k.shape[1]):
        key, new = k[:, t, :, None], v[:, t, None, :]
        state = decay[:, t] * state
        if beta is not None:
            new = beta[:, t, None, None] * (new - key.swapaxes(1, 2) @ state)
        state = state + key * new
        out[:, t] = (q[:, t, None, :] @ state)[:, 0]
    return out


def errors(found: Array, truth: Array) -> tuple[float, float]:
    """Relative: of all, and of the worst row."""
    gap, size = np.linalg.norm(found - truth, axis=-1), np.linalg.norm(truth, axis=-1)
    return float(np.linalg.norm(gap) / np.linalg.norm(size)), float((gap / size).max())


def stability(case: ScanCase, operator: Any, dtype: torch.dtype, rows: int, width: int) -> Figure:
    """The larger ratio of two errors of a hostile call to those of the sequential form, whose
    result is rounded to the dtype too."""
    tensors = hostile(case, rows, width, dtype)
    truth = sequential(tensors, np.float64)
    theirs = torch.from_numpy(sequential(tensors, np.float32)).to(dtype).double().numpy()
    ours = called(operator, tensors)[0].double().numpy()
    mine, other = errors(ours, truth), errors(theirs, truth)
    worst = max(a / b for a, b in zip(mine, other, strict=True))
    ratio = worst if np.isfinite(ours).all() else math.inf
    word = str(dtype).removeprefix("torch.")
    name = f"{case.name}: error over that of the sequential form, {word}"
    note = f"{rows} rows, decays from 1e-6 to 1 and resets; {mine[0]:.1e}, worst row {mine[1]:.1e}"
    return Figure(name, ratio, "", LARGEST, note)
