"""What a Region says about every tile, beside what is so: brute force over small grids of pairs.

A case is a mask with values for its leaves; `audit` compares any implementation of `regions` with
the visible set, so that mutants can be held to the same law.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.build import Equations
from attnc.expressions.evaluate import Environment, evaluate
from attnc.expressions.index import Index
from attnc.expressions.tree import Expr
from attnc.front import read_spec
from attnc.schedule.regions import Region, Segment
from attnc.source import Source

Regions = Callable[[Expr, Index, Index], Region]
TILES = ((16, 16), (64, 64), (128, 128), (64, 16), (16, 128), (7, 33))


@dataclass(frozen=True)
class MaskCase:
    """A mask over (row, key), and the call: lengths, offsets, numbers, arrays in `environment`."""

    name: str
    visible: Expr
    row: Index
    key: Index
    environment: Environment = field(repr=False)
    exact: bool = False  # every needed tile and no other, and full tiles are known for full

    def positions(self, index: Index) -> NDArray[Any]:
        first = self.environment.start(index.axis)
        return np.arange(first, first + self.environment.length(index.axis))

    def picture(self) -> NDArray[Any]:
        """The visible set, (rows, keys)."""
        rows, keys = self.positions(self.row), self.positions(self.key)
        at = {**self.environment.indices, self.row: rows[:, None], self.key: keys[None, :]}
        seen = evaluate(self.visible, replace(self.environment, indices=at))
        return np.broadcast_to(seen, (len(rows), len(keys)))


def text_case(
    name: str,
    mask: str,
    declared: str = "",
    rows: int = 300,
    keys: int = 300,
    offset: int = 0,
    exact: bool = False,
    imports: str = "",
    arrays: dict[str, NDArray[Any]] | None = None,
    **numbers: Any,
) -> MaskCase:
    """The case of a mask in the language, for one batch and head."""
    lines = [line.strip() for line in (declared + "; ").split(";") if line.strip()]
    body = "".join(f"    {line}\n" for line in [*lines, f"mask: {mask}"])
    scored = "    score: dot(q[i], k[j]) * scale\n    normalize: softmax(j: score)\n"
    source = Source(f"{imports}\nattention masked(q, k, v):\n{body}{scored}", name)
    spec = read_spec(source)
    definition = spec.definition(spec.root.sources[0].mask)  # type: ignore[arg-type]
    assert definition is not None
    row, key = spec.root.rows[0], spec.root.sources[0].keys[0]
    at = dict(zip(definition.array.indices, definition.array.indices, strict=True))
    row = next(index for index in at if index.axis is row.axis)
    key = next(index for index in at if index.axis is key.axis and index != row)
    lengths = {axis: 1 for axis in spec.axes if axis.form in ("measured", "coarse")}
    lengths |= {row.axis: rows, key.axis: keys}
    for given in spec.inputs:
        shape = (arrays or {}).get(given.name)
        if shape is not None:
            lengths |= dict(zip(given.array.axes, shape.shape, strict=True))
    params = {one.name: evaluate(one.default) for one in spec.numbers if one.default is not None}
    environment = Environment(
        indices={index: 0 for index in at if index not in (row, key)},
        params={**params, **numbers},
        lengths=lengths,
        starts={row.axis: offset},
        arrays=arrays or {},
    )
    visible = Equations(spec).value(definition)
    return MaskCase(name, visible, row, key, environment, exact)


@dataclass(frozen=True)
class Tally:
    """Over the tiles of a case: how many are needed, visited, full, and known for full."""

    needed: int
    visited: int
    full: int
    known_full: int

    @property
    def ratio(self) -> float:
        return self.visited / self.needed if self.needed else float(self.visited + 1)


class Wrong(AssertionError):
    """A Region claimed what is not so."""


def audit(case: MaskCase, regions: Regions, tile: tuple[int, int], swapped: bool = False) -> Tally:
    """What a Region of the case says about each tile (held, walked), checked; `swapped` holds keys.

    Raises Wrong where a tile with a visible pair is skipped, or one with a hidden pair is called
    full."""
    held, walked = (case.key, case.row) if swapped else (case.row, case.key)
    picture = case.picture().T if swapped else case.picture()
    region = regions(case.visible, held, walked)
    held_spans = spans(case.positions(held), tile[0])
    walked_spans = spans(case.positions(walked), tile[1])
    may, must = claims(case, region, held_spans, walked_spans, held, walked)
    some, every = blocks(picture, tile, np.any), blocks(picture, tile, np.all)
    if (some & ~may).any():
        raise Wrong(f"{case.name} {tile}: a tile with a visible pair is skipped")
    if (must & ~every).any():
        raise Wrong(f"{case.name} {tile}: a tile with a hidden pair is called full")
    if region.segments:
        check_segments(case, region.segments, held_spans, walked_spans, some, every)
    return Tally(int(some.sum()), int(may.sum()), int(every.sum()), int((must & may).sum()))


def spans(positions: NDArray[Any], size: int) -> NDArray[Any]:
    """Inclusive bounds of the tiles of an axis, (tiles, 2)."""
    starts = np.arange(0, len(positions), size)
    ends = np.minimum(starts + size, len(positions)) - 1
    return np.stack([positions[starts], positions[ends]], axis=1)


def blocks(picture: NDArray[Any], tile: tuple[int, int], fold: Any) -> NDArray[Any]:
    """A fold (any, all) of the picture over each tile."""
    columns = [picture[:, at : at + tile[1]] for at in range(0, picture.shape[1], tile[1])]
    strips = np.stack([fold(column, axis=1) for column in columns], axis=1)
    rows = [strips[at : at + tile[0]] for at in range(0, len(picture), tile[0])]
    return np.stack([fold(row, axis=0) for row in rows])


def corner_values(
    case: MaskCase,
    region: Region,
    held_spans: NDArray[Any],
    walked_spans: NDArray[Any],
    held: Index,
) -> dict[str, NDArray[Any]]:
    """The leaves of a Region: held ones as a column, walked ones as a row."""
    values = {
        "held_low": held_spans[:, :1], "held_high": held_spans[:, 1:],
        "walked_low": walked_spans[None, :, 0], "walked_high": walked_spans[None, :, 1],
    }  # fmt: skip
    for summary in region.summaries:
        at = {**case.environment.indices, summary.index: case.positions(summary.index)}
        here = replace(case.environment, indices=at)
        entries = np.broadcast_to(evaluate(summary.expr, here), at[summary.index].shape)
        first = case.environment.start(summary.index.axis)
        on_held = summary.index == held
        tiles = (held_spans if on_held else walked_spans) - first
        for side, fold in (("low", np.min), ("high", np.max)):
            found = np.array([fold(entries[low : high + 1]) for low, high in tiles])
            values[f"{summary.name}_{side}"] = found[:, None] if on_held else found[None, :]
    return values


def claims(
    case: MaskCase,
    region: Region,
    held_spans: NDArray[Any],
    walked_spans: NDArray[Any],
    held: Index,
    walked: Index,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """possible and certain of every tile, (held tiles, walked tiles)."""
    values = corner_values(case, region, held_spans, walked_spans, held)
    assert not (region.possible.free | region.certain.free) & {held, walked}
    environment = replace(case.environment, values=values)
    shape = (len(held_spans), len(walked_spans))
    found = (evaluate(tree, environment) for tree in (region.possible, region.certain))
    may, must = (np.broadcast_to(one, shape) for one in found)
    return may, must


def check_segments(
    case: MaskCase,
    segments: Iterable[Segment],
    held_spans: NDArray[Any],
    walked_spans: NDArray[Any],
    some: NDArray[Any],
    every: NDArray[Any],
) -> None:
    """Spans are in order and disjoint, cover every needed tile and (of an exact case) no other, and
    their full parts are full."""
    values = {"held_low": held_spans[:, 0], "held_high": held_spans[:, 1]}
    environment = replace(case.environment, values=values)
    shape = (len(held_spans),)
    first, last = walked_spans[0, 0], walked_spans[-1, 1] + 1
    reach = np.full(shape, first)
    touched = np.zeros(some.shape, bool)
    full = np.zeros(some.shape, bool)
    for segment in segments:
        start, full_start, full_stop, stop = (
            np.broadcast_to(evaluate(one, environment), shape)
            for one in (segment.start, segment.full_start, segment.full_stop, segment.stop)
        )
        start, stop = np.maximum(start, first), np.minimum(stop, last)
        live = start < stop
        if (start < reach)[live].any():
            raise Wrong(f"{case.name}: spans cross")
        reach = np.where(live, stop, reach)
        low, high = walked_spans[None, :, 0], walked_spans[None, :, 1]
        touched |= live[:, None] & (start[:, None] <= high) & (low < stop[:, None])
        inner = live & (full_start < full_stop)
        inside = (full_start[:, None] <= low) & (high < full_stop[:, None])
        full |= inner[:, None] & inside
    if (some & ~touched).any():
        raise Wrong(f"{case.name}: the spans miss a visible pair")
    if (full & ~every).any():
        raise Wrong(f"{case.name}: a hidden pair lies in a full span")
    if case.exact and (touched & ~some).any():
        raise Wrong(f"{case.name}: the spans visit a tile without a visible pair")
