"""Compares an operator's gradients with autograd of plain torch.

The truth is autograd of the dense formula (eager) in float64; the yardstick is the error that the
same formula's autograd makes in the dtype of the call, as for results (see verification). In
float64, where the truth is that formula itself, the yardstick is its error in float32, scaled by
the units in the last place of the two. Where a ratio is too large it is the largest error over a
few neighbouring calls, as for results: a number that cancels is a draw of its roundings.

A ratio of a few in float64 may be the truth's own: where one rounding of the inputs moves a
gradient by some hundreds of units, the dense formula is off by as many. (In 80-bit arithmetic two
kernels' gradients were at 2.6e-14 and 1e-14, those of their formulas at 9.9e-14 and 1e-13: ratios
of 3.5 and 3.3 to what is itself farther off.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attnc.cases import Case, Shape
from attnc.spec import Spec
from attnc.verification import (
    FLOOR,
    NEIGHBOURS,
    Comparison,
    Errors,
    Verdict,
    hostile_shapes,
    larger,
    legal_cases,
    neighbours,
    relative_errors,
    to_torch,
)

# A gradient whose typical entry is smaller is 0 but for rounding: all of its terms cancel, and its
# errors are absolute, relative to terms of size 1.
CANCELLED = 1e-10
LONGEST, WIDEST = 129, 80  # of the shapes: dense float64 autograd keeps every pair many times
Tensors = dict[str, torch.Tensor]


def gradient_errors(found: torch.Tensor, exact: torch.Tensor, rows: int) -> tuple[float, float]:
    """Relative Frobenius error and that of the worst row, `rows` leading axes counting rows; of
    the size of the terms where a gradient cancels to 0."""
    result, truth = _numbers(found), _numbers(exact)
    typical = np.sqrt(np.mean(np.square(truth))) if truth.size else 0.0
    if not truth.size or not typical < CANCELLED:
        return relative_errors(result, truth, rows)
    if not np.isfinite(result).all():
        return np.inf, np.inf
    misses = np.square(result - truth).reshape(*truth.shape[:rows], -1)
    return float(np.sqrt(misses.mean())), float(np.sqrt(misses.mean(-1).max()))


def gradient_ratios(
    found: torch.Tensor, rival: torch.Tensor, exact: torch.Tensor, rows: int, scale: float = 1.0
) -> Comparison:
    """Both errors as ratios to a rival's, times `scale`."""
    errors = gradient_errors(found, exact, rows)
    return _compared(errors, gradient_errors(rival, exact, rows), found.dtype, scale)


def _compared(
    errors: tuple[float, float], own: tuple[float, float], dtype: torch.dtype, scale: float
) -> Comparison:
    """Errors as ratios to a rival's. The floor is that of a result's row: a few roundings, for a
    gradient is a product of two sums already."""
    floor = FLOOR[dtype][1]
    ratios = [
        error / max(scale * other, floor) if np.isfinite(error) else error
        for error, other in zip(errors, own, strict=True)
    ]
    return Comparison("", *errors, *ratios)


def gradients_of(
    run: Callable[..., Any], tensors: Tensors, cotangent: torch.Tensor, **keywords: Any
) -> Tensors:
    """The gradient of each real tensor of a call, 0 where the result does not depend on it.

    Raises UnsupportedError where no gradient is derived."""
    leaves = {name: x.detach().requires_grad_() for name, x in tensors.items() if _is_real(x)}
    out = run(**{**tensors, **leaves}, **keywords)
    if not out.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    given = cotangent.to(out.dtype)
    found = torch.autograd.grad(out, list(leaves.values()), given, allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if one is None else one.detach()
        for (name, leaf), one in zip(leaves.items(), found, strict=True)
    }


def compare_gradients(
    spec: Spec,
    case: Case,
    run: Callable[..., Any],
    eager: Callable[..., Any],
    dtype: torch.dtype,
    device: str = "cpu",
    backend: str = "cpu",
    seed: int = 0,
) -> Verdict:
    """The gradients of one case on a backend, beside autograd of eager torch in the same dtype and
    in float64. Rows of an input given by place are those of its last axis; of others (tables,
    scalars) every entry counts.

    Raises UnsupportedError where no gradient is derived."""
    keywords = {**case.numbers, **case.extras}
    tensors = to_torch(case, spec, dtype, device)
    exact = {name: x.double() if _is_real(x) else x for name, x in tensors.items()}
    with torch.no_grad():
        size = run(**tensors, **keywords).shape
    drawn = np.random.default_rng((seed, 1)).standard_normal(tuple(size))
    cotangent = torch.from_numpy(drawn).to(device, dtype)
    truth = gradients_of(eager, exact, cotangent.double(), **keywords)
    lower = torch.float32 if dtype is torch.float64 else dtype
    scale = torch.finfo(dtype).eps / torch.finfo(lower).eps
    given = {name: x.to(lower) if x.dtype is torch.float64 else x for name, x in tensors.items()}
    positional = {one.name for one in spec.inputs if one.positional}
    rows = {name: gradient.dim() - (name in positional) for name, gradient in truth.items()}

    def errors(
        form: Callable[..., Any], at: Tensors, cotangent: torch.Tensor, truth: Tensors
    ) -> Errors:
        gradients = gradients_of(form, at, cotangent, **keywords)
        return {n: gradient_errors(gradients[n], one, rows[n]) for n, one in truth.items()}

    own_errors = errors(run, tensors, cotangent, truth)
    rival_errors = errors(eager, given, cotangent.to(lower), truth)

    def comparisons() -> tuple[Comparison, ...]:
        return tuple(
            replace(
                _compared(own_errors[n], rival_errors[n], dtype, scale), output=f"gradient of {n}"
            )
            for n in truth
        )

    verdict = comparisons()
    if not all(one.passed for one in verdict) and np.isfinite([*own_errors.values()]).all():
        for near in neighbours(given, spec, NEIGHBOURS):
            wide = {name: x.double() if _is_real(x) else x for name, x in near.items()}
            there = gradients_of(eager, wide, cotangent.double(), **keywords)
            mine = near if dtype is lower else wide
            own_errors = larger(own_errors, errors(run, mine, cotangent, there))
            rival_errors = larger(rival_errors, errors(eager, near, cotangent.to(lower), there))
        verdict = comparisons()
    return Verdict(backend, dtype, case, verdict)


def within_reach(shape: Shape) -> Shape:
    """A shape near this one that dense float64 autograd can hold."""
    rows, keys = min(shape.rows, LONGEST), min(shape.keys, LONGEST)
    return replace(
        shape,
        rows=rows,
        keys=keys,
        width=min(shape.width, WIDEST),
        value_width=min(shape.value_width, WIDEST),
        offset=min(shape.offset, max(keys - rows, 5)),
    )


def gradient_shapes(count: int, seed: int) -> Iterator[Shape]:
    """Hostile shapes that dense float64 autograd can hold."""
    return map(within_reach, hostile_shapes(count, seed))


def verify_gradients(
    spec: Spec,
    run: Callable[..., Any],
    eager: Callable[..., Any],
    dtypes: tuple[torch.dtype, ...],
    shapes: Iterator[Shape],
    seed: int = 0,
    device: str = "cpu",
    backend: str = "cpu",
) -> Iterator[Verdict]:
    """One verdict for each shape that the spec has a legal call for and each dtype. Raises
    UnsupportedError where no gradient is derived."""
    for case, own in legal_cases(spec, shapes, seed):
        for dtype in dtypes:
            yield compare_gradients(spec, case, run, eager, dtype, device, backend, own)


def _is_real(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point()


def _numbers(tensor: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().double().cpu().numpy()
    return array
