"""The Schedule: kernels as loop nests with typed tile statements, ready to be printed.

One abstraction carries both families of operators: a *carried loop* walks an axis in tiles while a
*held* tile (of the other axis) stays in registers, and says what is carried, how an element is
lifted into it, how carried values are combined and how they are finished; it reduces (attention's
key loop) or scans (a recurrence over chunks). Forward and dQ hold rows and walk keys; dK/dV and
column sums hold keys and walk rows: the same types with the roles swapped.

Expressions are scalar trees (expressions/tree.py) in which `value` nodes name tile values: the
results of statements of the same kernel. What a statement's value depends on is the set of free
indices of its expression: nothing but grid indices (once a head), held (once a row), walked (once
a key), both (a pair). No tile size, register, thread, dtype or device stands here: those are the
planner's.

Names of values that every stream kernel has
    reference     the running reference m of the stabilizer (base 2), a value over held. In the
                  statements of a loop it is finite: 0 while the row has met no exponent above -inf
                  (so that -inf - -inf never happens, there or in the rescaling). In `finish` and in
                  stores it is the maximum itself, -inf for an empty row.
    held_low, held_high, walked_low, walked_high
                  inclusive bounds of the positions in a tile, ints: the leaves of a Region

Reads. The positions of a read are expressions of grid indices for outer axes (a read on key heads
stands at `h // (len(h) // len(hk))`), and the index itself where a dimension is walked straight
(held, walked, a width). Any other position is clamped into its axis by the printer: at masked pairs
it may lie outside; its value is then ignored, but it must not fault. A read of an input or
workspace whose dtype is not the one wanted is converted on load.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr
from attnc.schedule.maps import MapKernel, SelectKernel, StepKernel
from attnc.schedule.scans import ReverseScanKernel, ScanKernel
from attnc.schedule.streams import StreamKernel
from attnc.signature import Signature


@dataclass(frozen=True, slots=True)
class RepeatKernels:
    """The kernels in order, once for each value of `index` (alternating row and column passes,
    solver rounds). A backend may end the rounds when every kernel finds all its rows idle."""

    index: Index
    count: Expr
    kernels: tuple[Kernel, ...]


Kernel = (
    StreamKernel
    | MapKernel
    | ScanKernel
    | ReverseScanKernel
    | StepKernel
    | SelectKernel
    | RepeatKernels
)


def leaves(kernels: Iterable[Kernel]) -> tuple[Kernel, ...]:
    """The kernels, those of rounds in the place of the rounds."""
    found: list[Kernel] = []
    for kernel in kernels:
        found.extend(leaves(kernel.kernels) if isinstance(kernel, RepeatKernels) else (kernel,))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Workspace:
    """An array that kernels pass on: dtype "query" (that of q, so that matrix units apply), or
    "accumulate"."""

    array: Array
    dtype: Literal["query", "accumulate"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Kernels in order, what they pass on, and the one signature of the operator.

    widths     the axes of widths: compile-time sizes
    notes      for explain: what was derived and which strategy was taken, one sentence each
    """

    name: str
    signature: Signature
    kernels: tuple[Kernel, ...]
    workspaces: tuple[Workspace, ...]
    widths: tuple[Axis, ...]
    notes: tuple[str, ...] = ()
