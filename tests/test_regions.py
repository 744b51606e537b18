"""Regions: never wrong, and tight, against the visible set itself."""

from __future__ import annotations

import numpy as np
import pytest
from region_cases import TILES, MaskCase, audit, text_case

from attnc.passes.regions import regions

# The library's `near` in an equal form whose first key rises with i.
PUSHED = """
def near(i, j, n, size, dilation = 1, stride = 1):
    m = (n - i % dilation + dilation - 1) // dilation
    lead = min(i // dilation // stride * stride + stride // 2, m - 1)
    first = clamp(lead - size // 2, 0, max(m - size, 0))
    return i % dilation == j % dilation and first <= j // dilation < first + size
"""
WINDOW = "param size: int"
GRID = "param height, width: int; axis i, j = (y < height, x < width)"
NEAR = PUSHED
PAST = "from grid import near_past" + PUSHED
rng = np.random.default_rng(0)
DOC = np.sort(rng.integers(0, 9, (1, 300)), axis=1)

LIBRARY: list[MaskCase] = [
    text_case("causal", "j <= i", exact=True),
    text_case("causal_offset", "j <= i", rows=100, offset=200, exact=True),
    text_case("sliding", "0 <= i - j < size", WINDOW, size=37, exact=True),
    text_case("sliding_one", "0 <= i - j < size", WINDOW, size=1, exact=True),
    text_case("sliding_none", "0 <= i - j < size", WINDOW, size=0),
    text_case("centred", "abs(i - j) <= size", WINDOW, size=20, exact=True),
    text_case(
        "dilated", "0 <= i - j < size * step and (i - j) % step == 0",
        "param size, step: int", size=9, step=5, exact=True,
    ),
    text_case("prefix", "j <= i or j < size", WINDOW, size=100, exact=True),
    text_case("chunked", "i // size == j // size and j <= i", WINDOW, size=48, exact=True),
    text_case("block_diagonal", "i // size == j // size", WINDOW, size=48, exact=True),
    text_case(
        "sinks", "j <= i and (i - j < size or j < sinks)", "param size, sinks: int",
        size=40, sinks=4, exact=True,
    ),
    text_case(
        "strided", "j <= i and (i - j < size or (i - j) % size == 0)", WINDOW, size=23, exact=True
    ),
    text_case(
        "fixed", "j <= i and (i // size == j // size or j % size >= size - 2)", WINDOW,
        size=40, exact=True,
    ),
    text_case(
        "documents", "doc[i] == doc[j] and 0 <= i - j < size",
        "input doc: int[b, j]; param size: int", arrays={"doc": DOC}, size=90, exact=True,
    ),
    text_case("near", "near(i, j, len(j), size)", WINDOW, imports=NEAR, size=13, exact=True),
    text_case(
        "near_strided", "near(i, j, len(j), size, 1, stride)", "param size, stride: int",
        imports=NEAR, size=13, stride=4, exact=True,
    ),
    text_case(
        "near_dilated", "near(i, j, len(j), size, step)", "param size, step: int", imports=NEAR,
        size=5, step=3, exact=True,
    ),
    text_case("near_past", "near_past(i, j, len(j), size)", WINDOW, imports=PAST, size=9, exact=True),
    text_case(
        "near_2d", "near(i.y, j.y, height, size) and near(i.x, j.x, width, size)",
        f"{GRID}; param size: int", imports=NEAR, rows=320, keys=320, height=20, width=16, size=5,
        exact=True,
    ),
    text_case(
        "near_2d_odd", "near(i.y, j.y, height, size) and near(i.x, j.x, width, size)",
        f"{GRID}; param size: int", imports=NEAR, rows=391, keys=391, height=17, width=23, size=5,
    ),
    text_case(
        "near_3d", "near_past(i.t, j.t, frames, 2) and near(i.y, j.y, height, size) and "
        "near(i.x, j.x, width, size)",
        "param frames, height, width, size: int; "
        "axis i, j = (t < frames, y < height, x < width)",
        imports=PAST, rows=384, keys=384, frames=4, height=8, width=12, size=3,
    ),
    text_case(
        "shifted", "shifted(i.y, j.y, height, size, shift) and shifted(i.x, j.x, width, size, shift)",
        f"{GRID}; param size, shift: int", imports="from grid import shifted", rows=256, keys=256,
        height=16, width=16, size=4, shift=2,
    ),
    text_case(
        "per_head", "j <= i and (h % 2 == 0 or i - j < size)", WINDOW, size=33, exact=True
    ),
]  # fmt: skip


@pytest.mark.parametrize("swapped", [False, True], ids=["keys", "rows"])
@pytest.mark.parametrize("case", LIBRARY, ids=lambda case: case.name)
def test_library_masks_are_exact(case: MaskCase, swapped: bool) -> None:
    for tile in TILES:
        found = audit(case, regions, tile, swapped)
        print(tile, found)
        if case.exact:
            assert found.visited == found.needed, tile
