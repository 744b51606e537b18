"""Rows that are run one after another, because values of keys go from each to the next."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from attnc.runtime.forms import levels_live

# Some rows: what is recorded of them by name, and what is carried after the last.
Walk = Callable[..., tuple[dict[str, list[Any]], tuple[Any, ...]]]


def in_segments(
    walk: Walk, first: int, count: int, carried: tuple[Any, ...]
) -> tuple[dict[str, list[Any]], tuple[Any, ...]]:
    """All rows from position `first` on. Where autograd keeps what a row read, it keeps what is
    carried once in about sqrt(count) rows, and runs the rows between again for the backward: keys
    times sqrt(rows) numbers instead of keys times rows."""
    saves = torch.is_grad_enabled() and not levels_live()
    size = max(isqrt(count), 1) if saves else max(count, 1)
    found: dict[str, list[Any]] = {}
    for begin in range(first, first + max(count, 1), size):
        end = min(begin + size, first + count)
        if saves and end > begin:
            rows, carried = checkpoint(
                walk, begin, end, *carried, use_reentrant=False, preserve_rng_state=False
            )
        else:
            rows, carried = walk(begin, end, *carried)
        for name, one in rows.items():
            found.setdefault(name, []).extend(one)
    return found, carried
