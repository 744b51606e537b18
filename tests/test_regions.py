"""Regions: never wrong, and tight, against the visible set itself."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from region_cases import TILES, MaskCase, Regions, Wrong, audit, text_case

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, call, number
from attnc.passes.regions import regions
from attnc.schedule.regions import Region

# The library's `near` in an equal form whose first key rises with i.
WINDOW = "param size: int"
GRID = "param height, width: int; axis i, j = (y < height, x < width)"
NEAR = "from grid import near"
PAST = "from grid import near, near_past"
rng = np.random.default_rng(0)
DOC = np.sort(rng.integers(0, 9, (1, 300)), axis=1)

BLOCKS = "axis s < (len(j) + 15) // 16; axis t < (len(i) + 28) // 20"
CHOSEN = np.random.default_rng(5).random((1, 1, 16, 19)) < 0.2
BANNED = np.kron(np.random.default_rng(6).random((1, 10, 10)) < 0.7, np.ones((1, 30, 30))) > 0

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
    text_case(
        "near_past", "near_past(i, j, len(j), size)", WINDOW, imports=PAST, size=9, exact=True
    ),
    text_case(
        "near_2d", "near(i.y, j.y, height, size) and near(i.x, j.x, width, size)",
        f"{GRID}; param size: int", imports=NEAR, rows=320, keys=320, height=20, width=16, size=5,
        exact=True,
    ),
    text_case(
        "near_2d_odd", "near(i.y, j.y, height, size) and near(i.x, j.x, width, size)",
        f"{GRID}; param size: int", imports=NEAR, rows=391, keys=391, height=17, width=23, size=5,
        exact=True,
    ),
    text_case(
        "near_3d", "near_past(i.t, j.t, frames, 2) and near(i.y, j.y, height, size) and "
        "near(i.x, j.x, width, size)",
        "param frames, height, width, size: int; "
        "axis i, j = (t < frames, y < height, x < width)",
        imports=PAST, rows=384, keys=384, frames=4, height=8, width=12, size=3,
        exact=True,
    ),
    text_case(
        "shifted",
        "shifted(i.y, j.y, height, size, shift) and shifted(i.x, j.x, width, size, shift)",
        f"{GRID}; param size, shift: int", imports="from grid import shifted", rows=256, keys=256,
        height=16, width=16, size=4, shift=2, exact=True,
    ),
    text_case(
        "chosen", "chosen[i // 20, j // 16]", f"{BLOCKS}; input chosen: bool[b, h, t, s]",
        arrays={"chosen": CHOSEN}, exact=True,
    ),
    text_case(
        "chosen_causal", "j <= i and chosen[i // 20, j // 16]",
        f"{BLOCKS}; input chosen: bool[b, h, t, s]", arrays={"chosen": CHOSEN}, offset=9,
    ),
    text_case(
        "banned", "not banned[j, i]", "input banned: bool[b, j, i]",
        arrays={"banned": BANNED}, exact=True,
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
        if case.exact:
            assert found.visited == found.needed, tile


# --- closed spans -------------------------------------------------------------------------------

CLOSED = (
    "causal", "causal_offset", "sliding", "centred", "prefix", "chunked", "block_diagonal",
    "sinks", "near", "near_strided", "near_past",
)  # fmt: skip
EXTRA = [
    text_case(
        "dilated_3", "0 <= i - j < size * 3 and (i - j) % 3 == 0", WINDOW, size=30, exact=True
    ),
    text_case(
        "global", "i < sinks or j < sinks or abs(i - j) <= size", "param size, sinks: int",
        size=21, sinks=5, exact=True,
    ),
    text_case(
        "rows", "j <= i and i >= size", WINDOW, size=77, exact=True
    ),
    text_case("suffix", "i <= j or j >= 250", exact=True),
    text_case("halves", "2 * j <= i", exact=True),
    text_case("residue", "(i - j) % 3 == 1", exact=True),
]  # fmt: skip


@pytest.mark.parametrize("swapped", [False, True], ids=["keys", "rows"])
@pytest.mark.parametrize(
    "case", [*(c for c in LIBRARY if c.name in CLOSED), *EXTRA], ids=lambda case: case.name
)
def test_spans_are_closed_and_exact(case: MaskCase, swapped: bool) -> None:
    held, walked = (case.key, case.row) if swapped else (case.row, case.key)
    region = regions(case.visible, held, walked)
    one_way = case.name in ("chunked", "near", "near_strided", "near_past", "halves")
    if not (swapped and one_way):  # of the other index these are no bounds
        assert region.segments, case.name
    for tile in TILES:
        found = audit(case, regions, tile, swapped)
        assert found.visited == found.needed


def shifted_spans(field: str, by: int) -> Regions:
    """`regions` with one end of its spans moved."""

    def mutated(visible: Expr, held: Index, walked: Index) -> Region:
        region = regions(visible, held, walked)
        spans = tuple(
            replace(one, **{field: call("add", getattr(one, field), number(by))})
            for one in region.segments
        )
        return replace(region, segments=spans)

    return mutated


@pytest.mark.parametrize(
    ("field", "by"), [("start", 1), ("stop", -1), ("full_start", -1), ("full_stop", 1)]
)
def test_moved_spans_are_caught(field: str, by: int) -> None:
    case = next(one for one in LIBRARY if one.name == "sliding")
    with pytest.raises(Wrong):
        for tile in ((1, 1), (4, 1), (16, 1)):
            audit(case, shifted_spans(field, by), tile)


# --- the library's neighbourhoods ---------------------------------------------------------------

AS_DEFINED = """
def near(i, j, n, size, dilation = 1, stride = 1):
    m = (n - i % dilation + dilation - 1) // dilation
    lead = min(i // dilation // stride * stride + stride // 2, m - 1)
    right = (size + 1) // 2 - 1
    first = max(lead - size // 2, 0) + min(m - right - lead - 1, 0)
    return i % dilation == j % dilation and first <= j // dilation < first + size
"""


def test_the_rising_form_of_near_sees_the_same() -> None:
    """The shipped form against that of the definition (a start, moved in at both ends), for every
    length, size, dilation and stride up to where nothing new can happen."""
    mask, numbers = "near(i, j, len(j), size, step, stride)", "param size, step, stride: int"
    cases = [text_case("near", mask, numbers, imports=form) for form in (AS_DEFINED, NEAR)]
    for n, size, step, stride in itertools.product(
        range(1, 13), range(1, 8), (1, 2, 3), (1, 2, 3, 5)
    ):
        seen = []
        for case in cases:
            lengths = dict(case.environment.lengths) | {case.row.axis: n, case.key.axis: n}
            params = {"size": size, "step": step, "stride": stride}
            here = replace(case.environment, lengths=lengths, params=params)
            seen.append(replace(case, environment=here).picture())
        assert (seen[0] == seen[1]).all(), (n, size, step, stride)
