"""Compares a compiled operator with the oracle: error ratios, and the visible set read back
exactly.

The error of a result is reported twice, relative Frobenius and the worst row, each as a ratio to
the error that plain
torch makes with the same formula in the same dtype; 2 is the most that is allowed. A visibility
probe stands beside it:
where the values are one-hot over key blocks, a row's result is zero exactly where no key of the
block is visible.

The error of one sum is a draw of its roundings, so torch may be near the truth by luck in the very
row that is hardest (scores that cancel under a ratio of two keys). Where a ratio is too large, both
errors are therefore the largest over a few neighbouring calls, whose inputs are moved by single
roundings, each beside the oracle's answer to that call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attnc.cases import Case, Shape, deciding, draw_case
from attnc.errors import AttncError
from attnc.moderate import Moderation
from attnc.spec import Spec

LARGEST_RATIO = 2.0
NEIGHBOURS = 16
# The smallest errors that ratios are taken to, overall and for the worst row: one rounding of the
# result and a few of the sums in it. Below them torch is exact by luck (one key, a short row), and
# a
# ratio says nothing.
FLOOR = {
    torch.float32: (2.0**-23, 2.0**-21),
    torch.bfloat16: (2.0**-9, 2.0**-8),
    torch.float16: (2.0**-12, 2.0**-11),
    torch.float64: (2.0**-46, 2.0**-45),  # the oracle's own rounding, at scores of some hundreds
}


Errors = dict[str, tuple[float, float]]  # by output: relative Frobenius, the worst row's


@dataclass(frozen=True)
class Comparison:
    """One output of one case on one backend. Ratios are to eager torch in the same dtype."""

    output: str
    frobenius: float
    worst_row: float
    frobenius_ratio: float
    worst_row_ratio: float

    @property
    def passed(self) -> bool:
        return max(self.frobenius_ratio, self.worst_row_ratio) <= LARGEST_RATIO


@dataclass(frozen=True)
class Verdict:
    """What one case said of one backend."""

    backend: str
    dtype: torch.dtype
    case: Case
    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        return all(one.passed for one in self.comparisons)


def to_torch(
    case: Case, spec: Spec, dtype: torch.dtype, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    """The case's tensors: positional inputs in `dtype`, other reals in float32 (float64 for
    float64)."""
    other = torch.float64 if dtype is torch.float64 else torch.float32
    positional = {given.name for given in spec.inputs if given.positional}
    tensors: dict[str, torch.Tensor] = {}
    for name, array in case.tensors.items():
        tensor = torch.from_numpy(np.asarray(array, order="C")).to(device)
        if tensor.is_floating_point():
            tensor = tensor.to(dtype if name in positional else other)
        tensors[name] = tensor
    return tensors


def relative_errors(result: NDArray[Any], truth: NDArray[Any], rows: int) -> tuple[float, float]:
    """Relative Frobenius error, and the largest error of a row relative to the norm of a typical
    row.

    `rows`: how many leading axes index rows. Infinite where the two disagree on what is finite."""
    result, truth = np.asarray(result, np.float64), np.asarray(truth, np.float64)
    if truth.size == 0:
        return 0.0, 0.0
    odd = ~np.isfinite(truth)
    if not np.array_equal(odd, ~np.isfinite(result)) or not _same(result[odd], truth[odd]):
        return np.inf, np.inf
    difference = np.where(odd, 0.0, result - np.where(odd, 0.0, truth))
    difference[odd] = 0.0
    finite = np.where(odd, 0.0, truth)
    norm = float(np.linalg.norm(finite))
    if norm == 0.0:
        wrong = float(np.linalg.norm(difference))
        return (np.inf, np.inf) if wrong else (0.0, 0.0)
    by_row = np.linalg.norm(difference.reshape(*difference.shape[:rows], -1), axis=-1)
    norms = np.linalg.norm(finite.reshape(*finite.shape[:rows], -1), axis=-1)
    typical = norm / np.sqrt(max(norms.size, 1))
    worst = float((by_row / np.maximum(norms, typical)).max(initial=0.0))
    return float(np.linalg.norm(difference)) / norm, worst


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return bool(np.array_equal(a, b, equal_nan=True))


def compare(
    spec: Spec,
    case: Case,
    run: Callable[..., Any],
    eager: Callable[..., Any],
    dtype: torch.dtype,
    emit: tuple[str, ...] = (),
    device: str = "cpu",
    backend: str = "cpu",
) -> Verdict:
    """Runs one case on a backend, on eager torch in the same dtype, and on the oracle."""
    from attnc.backends.numpy_oracle import evaluate

    tensors = to_torch(case, spec, dtype, device)
    keywords = {**case.numbers, **case.extras, **({"emit": emit} if emit else {})}

    rows = len(spec.root.result.array.indices) - 1

    def errors(tensors: dict[str, torch.Tensor], *forms: Callable[..., Any]) -> list[Errors]:
        exact = {name: _exact(tensor) for name, tensor in tensors.items()}
        truth = evaluate(spec, exact, case.numbers, emit=emit, **case.extras)
        results = [_named(form(**tensors, **keywords), emit) for form in forms]
        return [
            {name: relative_errors(one[name], truth[name], rows) for name in ("out", *emit)}
            for one in results
        ]

    found, own = errors(tensors, run, eager)
    comparisons = _comparisons(found, own, dtype)
    if all(one.passed for one in comparisons) or not np.isfinite([*found.values()]).all():
        return Verdict(backend, dtype, case, comparisons)
    if dtype is torch.float64:
        rounded = to_torch(case, spec, torch.float32, device)
        own = larger(own, _in_float64(*errors(rounded, eager)))
        comparisons = _comparisons(found, own, dtype)
    if not all(one.passed for one in comparisons):
        for near in neighbours(tensors, spec, NEIGHBOURS):
            found, own = map(larger, (found, own), errors(near, run, eager))
        comparisons = _comparisons(found, own, dtype)
    return Verdict(backend, dtype, case, comparisons)


def _in_float64(single: Errors) -> Errors:
    """What errors in float32 would be in float64; infinite ones say nothing."""
    scale = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    finite = {name: np.nan_to_num(both, posinf=0.0) for name, both in single.items()}
    return {name: (scale * whole, scale * worst) for name, (whole, worst) in finite.items()}


def neighbours(
    tensors: dict[str, torch.Tensor], spec: Spec, count: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Calls near this one: each number of an input given by place, or of a real one that no mask or
    choice looks at, is moved by a rounding up, down or not at all."""
    stay = deciding(spec)
    moved = {one.name for one in spec.inputs if one.positional or one.name not in stay}
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        near = dict(tensors)
        for name in sorted(moved & tensors.keys()):
            tensor = tensors[name]
            if tensor.is_floating_point():
                steps = torch.randint(-1, 2, tensor.shape, generator=generator).to(tensor)
                near[name] = tensor + tensor * (steps * torch.finfo(tensor.dtype).eps)
        yield near


def _comparisons(found: Errors, own: Errors, dtype: torch.dtype) -> tuple[Comparison, ...]:
    comparisons = []
    for name, error in found.items():
        single = name != "out" and dtype is not torch.float64  # emits: the accumulation type
        floors = FLOOR[torch.float32 if single else dtype]
        ratios = [
            e / max(o, floor) if np.isfinite(e) else e
            for e, o, floor in zip(error, own[name], floors, strict=True)
        ]
        comparisons.append(Comparison(name, *error, *ratios))
    return tuple(comparisons)


def larger(one: Errors, other: Errors) -> Errors:
    """The larger errors of two calls by output; NaN is larger than any."""
    return {
        name: (float(np.maximum(a, c)), float(np.maximum(b, d)))
        for (name, (a, b)), (c, d) in zip(one.items(), other.values(), strict=True)
    }


def _exact(tensor: torch.Tensor) -> NDArray[Any]:
    return (tensor.double() if tensor.is_floating_point() else tensor).cpu().numpy()


def _named(results: Any, emit: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    values = results if emit else (results,)
    return {name: _exact(value) for name, value in zip(("out", *emit), values, strict=True)}


def hostile_shapes(count: int, seed: int) -> Iterator[Shape]:
    """Shapes drawn so that every hostile length, width and group comes up early, in pairs."""
    from attnc.cases import HOSTILE_GROUPS, HOSTILE_LENGTHS, HOSTILE_WIDTHS

    rng = np.random.default_rng(seed)
    decks = [
        list(HOSTILE_LENGTHS),
        list(HOSTILE_LENGTHS),
        list(HOSTILE_WIDTHS),
        list(HOSTILE_WIDTHS),
    ]
    decks.append(list(HOSTILE_GROUPS))
    dealt: list[list[int]] = [[] for _ in decks]
    for _ in range(count):
        hand = []
        for deck, pile in zip(decks, dealt, strict=True):
            if not pile:
                pile.extend(int(x) for x in rng.permutation(deck))
            hand.append(pile.pop())
        rows, keys, width, value_width, group = hand
        yield Shape(
            rows=rows,
            keys=keys,
            width=width,
            value_width=value_width,
            batch=int(rng.choice((1, 2, 2, 3, 0), p=(0.3, 0.3, 0.2, 0.15, 0.05))),
            key_heads=int(rng.integers(1, 3)),
            group=group,
            magnitude=float(rng.choice((1.0, 1.0, 1.0, 0.01, 8.0))),
            offset=int(rng.choice((0, 0, 1, 5, 64, max(keys - rows, 0)))),
        )


def verify(
    spec: Spec,
    run: Callable[..., Any],
    eager: Callable[..., Any],
    dtypes: tuple[torch.dtype, ...],
    shapes: Iterator[Shape],
    seed: int = 0,
    emit: tuple[str, ...] = (),
    device: str = "cpu",
    backend: str = "cpu",
) -> Iterator[Verdict]:
    """One verdict for each shape that the spec has a legal call for and each dtype."""
    for case, _ in legal_cases(spec, shapes, seed):
        for dtype in dtypes:
            yield compare(spec, case, run, eager, dtype, emit, device, backend)


def legal_cases(spec: Spec, shapes: Iterable[Shape], seed: int) -> Iterator[tuple[Case, int]]:
    """A call for each shape or, where the spec has none, for one near it, and the seed it was drawn
    with; where states are carried, one whose result stays moderate."""
    moderation = Moderation(spec)
    for own, shape in enumerate(shapes, seed):
        for near in _near(shape):
            try:
                drawn = draw_case(spec, near, own)
            except AttncError:
                continue
            yield moderation.of(drawn, own), own
            break


def _near(shape: Shape) -> Iterator[Shape]:
    """The shape; without the rows that no key stands beside; with a row for each key."""
    yield shape
    within = min(shape.rows, shape.keys)
    yield replace(shape, rows=within, offset=min(shape.offset, shape.keys - within))
    yield replace(shape, rows=shape.keys, offset=0)
