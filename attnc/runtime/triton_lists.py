"""Tiles that are found at run time: launches the region kernels of a stream kernel. Lists of a mask
without data are kept for the next call of the same sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from attnc.runtime.triton_plan import TritonTile
from attnc.runtime.triton_sources import KernelArguments


def list_tiles(run: KernelArguments, held_tiles: int, walked: int) -> None:
    """Runs the region kernels of the loops that have no closed spans (or when asked to)."""
    for number, region in enumerate(run.kernel["regions"]):
        if region is None:
            continue
        listed = not region["closed"] or bool(run.options.get("TILE_LIST"))
        run.options[f"TILE_LIST_{number}"] = listed
        if listed:
            _list_loop(run, number, region, held_tiles, walked)


def _list_loop(
    run: KernelArguments, number: int, region: Mapping[str, Any], held_tiles: int, walked: int
) -> None:
    call, work = run.call, run.work
    tables = any(
        isinstance(value, torch.Tensor) for value in (call.offset, call.key_offset, call.key_length)
    )
    cells = 1
    for axis in reversed(region["cells"]):
        used = axis in region["needs"] or tables
        count = run.length(axis) if used else 1
        work[f"count.{number}.{axis}"] = count
        work[f"cells.{number}.{axis}"] = cells if used else 0
        cells *= count
    most = max(-(-run.length(region["walked"]) // walked), 1)
    work[f"most.{number}.walked"], work[f"most.{number}.held"] = most, held_tiles
    key = None
    if not tables and not region["data"] and not region["summaries"]:
        sizes = tuple(sorted((k, v) for k, v in call.known.items()))
        shifts = (call.offset, call.key_offset, call.key_length)
        options = (run.options["BLOCK_HELD"], walked, run.options["PACKED"])
        key = (region["function"], call.device, sizes, shifts, options)
        kept = run.backend.kept_list(key)
        if kept is not None:
            work.update(kept)
            return
    new: dict[str, Any] = {}
    new[f"tiles.{number}"] = run.buffer(cells * held_tiles * most, torch.int32)
    new[f"counts.{number}"] = run.buffer(cells * held_tiles * 2, torch.int32)
    work.update(new)
    for summary in region["summaries"]:
        _summarise(run, number, summary, cells)
    run.launch(region, cells * held_tiles, TritonTile())
    if key is not None:
        run.backend.keep_list(key, new)


def _summarise(run: KernelArguments, number: int, summary: Mapping[str, Any], cells: int) -> None:
    """Bounds of one expression over tiles."""
    side = "held" if summary["held"] else "walked"
    slots = cells * run.work[f"most.{number}.{side}"]
    dtype = run.call.accumulate if summary["real"] else torch.int64
    for bound in ("low", "high"):
        name = f"summary.{summary['summary']}.{bound}"
        run.work[name] = run.buffer(slots, dtype)
    run.launch(summary, slots, TritonTile())
