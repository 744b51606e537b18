"""What a module does when it is run as a script: its kernels against its own dense formula in
float64.

Every dtype on a few awkward shapes; the error of each result is printed as a ratio to the error of
the dense formula
in that dtype. A ratio above 2 is a failure, and the exit code says so.
"""

from __future__ import annotations

import sys
from itertools import product as combinations
from typing import Any

import torch

from attnc.runtime.failures import AttncError
from attnc.runtime.slots import NumberSlot, Signature, TensorSlot

CHECKED_SHAPES = ((1, 1, 16), (2, 129, 64), (127, 127, 80), (257, 130, 31), (300, 521, 64))
CHECKED_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SMALLEST_ERROR = {
    torch.float32: 2e-7,
    torch.bfloat16: 2e-3,
    torch.float16: 3e-4,
    torch.float64: 2e-14,
}
ALLOWED_RATIO = 2.0


def check_module(operator: Any, reference: Any) -> int:
    """Compares on the device at hand, prints a line for each shape and dtype, returns the exit
    code."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    failed = checked = 0
    for shape in CHECKED_SHAPES:
        arguments = random_arguments(operator.signature, *shape, device)
        if arguments is None:
            continue
        for dtype in CHECKED_DTYPES:
            try:
                ratio = error_ratio(operator, reference, arguments, dtype)
            except AttncError as error:
                print(f"{dtype}: {error}", file=sys.stderr)
                failed += 1
                continue
            checked += 1
            failed += not ratio <= ALLOWED_RATIO
            verdict = "ok" if ratio <= ALLOWED_RATIO else "FAILED"
            sizes = "rows {}, keys {}, width {}".format(*shape)
            print(f"{sizes}, {dtype}: {ratio:.2f} of the error of torch, {verdict}")
    print(f"{checked - failed} passed, {failed} failed")
    return 1 if failed or not checked else 0


def random_arguments(
    signature: Signature, rows: int, keys: int, width: int, device: str
) -> dict[str, Any] | None:
    """Tensors in float64 and numbers of a legal call near a shape; None if none was found."""
    generator = torch.Generator().manual_seed(rows * 7919 + keys)
    sizes = {"b": 2, "h": 6, "hk": 2, "d": width, "e": width, signature.rows: rows}
    sizes[signature.keys] = keys
    needed = [n for n in signature.numbers if not n.optional]
    # A default may be too large for a few rows, a number made for the rows too large for heads.
    tries = [(needed, rows), (signature.numbers, rows), (signature.numbers, 4)]
    for (chosen, most), spare in combinations(tries, (7, rows + keys + 1, 17)):
        known: dict[str, Any] = dict(signature.statics)
        numbers = {n.name: _number(n, min(rows, most)) for n in chosen}
        known.update(numbers)
        for tensor in signature.inputs:
            for axis in tensor.axes:
                known.setdefault(f"len_{axis}", sizes.get(axis, spare))
        signature.lengths(known)
        if all(one[0] for one in signature.requirements(known)):
            tensors = {
                tensor.name: _tensor(tensor, known, generator).to(device)
                for tensor in signature.inputs
                if not tensor.optional
            }
            return {**tensors, **numbers}
    return None


def _number(number: NumberSlot, rows: int) -> Any:
    if number.kind == "bool":
        return True
    return max(1, int(rows**0.5)) if number.kind == "int" else 0.5


def _tensor(tensor: TensorSlot, known: dict[str, Any], generator: torch.Generator) -> torch.Tensor:
    shape = tuple(known[f"len_{axis}"] for axis in tensor.axes)
    if tensor.dtype == "int":
        return torch.randint(0, 3, shape, generator=generator)
    if tensor.dtype == "bool":
        return torch.rand(shape, generator=generator) < 0.7
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def error_ratio(
    operator: Any, reference: Any, arguments: dict[str, Any], dtype: torch.dtype
) -> float:
    """The operator's relative error over that of the dense formula in the same dtype."""
    query = {tensor.name for tensor in operator.signature.inputs if tensor.dtype == "query"}
    other = torch.float64 if dtype is torch.float64 else torch.float32

    def typed(name: str, value: Any) -> Any:
        floating = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(dtype if name in query else other) if floating else value

    def widened(value: Any) -> Any:
        floating = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.double() if floating else value

    low = {name: typed(name, value) for name, value in arguments.items()}
    truth = reference(**{name: widened(value) for name, value in low.items()})
    norm = truth.norm().clamp_min(1e-300)
    own = float((reference(**low).double() - truth).norm() / norm)
    error = float((operator(**low).double() - truth).norm() / norm)
    return error / max(own, SMALLEST_ERROR[dtype])
