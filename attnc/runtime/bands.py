"""Rows of a pipeline in bands: what rows and another length make is made, used and forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from attnc.runtime.eager_numbers import Real, Value
from attnc.runtime.forms import levels_live

BAND_BYTES = 1 << 27  # of what grows, in one band
BAND_ROWS = 64  # the fewest rows that a kernel walks well; bands are multiples

# The first position, the count of rows, what is given of these rows -> outputs by name.
Band = Callable[..., dict[str, torch.Tensor]]


def in_bands(
    run: Band,
    first: Any,
    rows: int,
    *,
    row_bytes: tuple[int, int],
    whole: bool,
    made_of: Iterable[Value],
    given: Sequence[tuple[Value, int]],
    places: Mapping[str, int],
) -> dict[str, torch.Tensor]:
    """The outputs of all rows from position `first` on.

    row_bytes   of what grows, for one row; and how much more of it in calls with gradients
    whole       whether an output needs all rows at once
    made_of     the inputs, of which gradients may be wanted
    given       what has rows, each with the place of its axis of rows
    places      the same of each output that has rows; others are alike in every band

    A band's graph keeps what is given to it and runs again for the backward, so that nothing of
    rows times another length is saved; gradients of what bands share are added in one order."""
    transformed = levels_live()
    trained = torch.is_grad_enabled() and any(one.mantissa.requires_grad for one in made_of)
    trained = trained or transformed
    most = BAND_BYTES // max(row_bytes[0] + trained * row_bytes[1], 1)
    size = max(most // BAND_ROWS, 1) * BAND_ROWS
    if whole or rows <= size:
        return run(first, rows, *(value for value, _ in given))
    saves = trained and not transformed
    parts = [list(_of_bands(value, size, place)) for value, place in given]
    found = []
    for number, begin in enumerate(range(0, rows, size)):
        band = (first + begin, min(size, rows - begin), *(part[number] for part in parts))
        found.append(
            checkpoint(run, *band, use_reentrant=False, preserve_rng_state=False)
            if saves
            else run(*band)
        )
    return {
        name: torch.cat([one[name] for one in found], places[name])
        if name in places
        else first_found
        for name, first_found in found[0].items()
    }


def _of_bands(value: Value, size: int, place: int) -> Iterator[Value]:
    """The rows of each band."""
    tensors: list[Any] = [value]
    if isinstance(value, Real):
        whole = value.each(lambda x: x)  # both of one shape
        tensors = [x for x in (whole.mantissa, whole.exponent) if x is not None]
    for part in zip(*(x.split(size, place) for x in tensors), strict=True):
        yield Real(*part) if isinstance(value, Real) else part[0]
