"""Gradients of the gallery's operators by Triton's kernels, in its interpreter: against autograd of
the dense formula in float64, for what the catalogue says of them.

The calls are the gallery's, of one batch and key head; tiles are smaller than any GPU's, so that a
few rows and keys lie in several, and of two shapes. `make test` tries a few operators, chosen by
the run's seed; all of them are for torture."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported anywhere

import pytest
import torch
import triton_interpreter  # noqa: F401
from gallery_cases import EXAMPLES, Setting, calls, has_kernels, load, setting_of, spec_paths
from test_gallery import gallery

from attnc.cases import Shape, draw_case
from attnc.errors import AttncError, UnsupportedError
from attnc.operator import Operator
from attnc.spec import Spec
from attnc.verification import Comparison
from attnc.verification_gradients import compare_gradients

DTYPES = (torch.float64, torch.float32)
TILES: tuple[dict[str, Any], ...] = (
    {"BLOCK_HELD": 4, "BLOCK_WALKED": 8},
    {"BLOCK_HELD": 8, "BLOCK_WALKED": 4, "PACKED": True, "shares": 2},
)
MOST = 6  # operators of a run: most of a minute of one core
# Of a few rows the worst is a matter of luck: errors under 32 roundings of float32 pass too (eight
# pass for a result; a gradient is a difference of two sums of products of two).
ROUNDINGS = 32 * 2.0**-23
SAID = {row.name: row.gradient_on_triton for row in gallery.read_rows()}
PATHS = {path.stem: path for path in spec_paths()}
VERIFIED = [name for name in PATHS if SAID.get(name) == "verified"]
# Maps are walked whole: their calls cost several times the others'.
SMALL = [name for name in VERIFIED if PATHS[name].parent != EXAMPLES / "grid"]


def small(spec: Spec, setting: Setting) -> Setting:
    """The same calls at one width and one batch, of one key head and a group of two where the
    operator's numbers allow so few."""
    sizes = {"width": 8, "value_width": 5, "batch": 1}
    few = {**sizes, "key_heads": 1, "group": 2}
    shapes = []
    for at, shape in enumerate(setting.shapes):
        numbers = setting.numbers[at % len(setting.numbers)]
        try:
            draw_case(spec, replace(shape, **few), 0, numbers)
        except AttncError:
            shapes.append(replace(shape, **sizes))
        else:
            shapes.append(replace(shape, **few))
    return replace(setting, shapes=tuple(shapes))


def forced(operator: Any, constants: dict[str, Any]) -> Any:
    """The operator with tiles that the planner would not choose: its kernels, those of every block
    of a pipeline, and their derivatives."""
    for one in getattr(operator._run, "stages", {"": operator._run}).values():
        force(one, constants)
    return operator


def force(kernels: Any, constants: dict[str, Any]) -> None:
    """These constants in every kernel set of one block, also in those that are built later."""
    build = kernels.family.build

    def made(entries: Any) -> dict[str, Any]:
        backends: dict[str, Any] = build(entries)
        for backend in backends.values():
            backend.forced = constants
        return backends

    kernels.family.build = made
    for backend in kernels.backends.values():
        backend.forced = constants


def passes(one: Comparison, dtype: torch.dtype) -> bool:
    few = dtype is torch.float32 and max(one.frobenius, one.worst_row) <= ROUNDINGS
    return one.passed or few


def misses(path: Path, most: int, tiles: tuple[dict[str, Any], ...]) -> Iterator[str]:
    """Gradients further from autograd than allowed. Raises UnsupportedError where none exist."""
    spec = load(path)
    constants: dict[str, Any] = {}
    run, eager = forced(Operator(spec, "triton"), constants), Operator(spec, "eager")
    for case, _ in islice(calls(spec, small(spec, setting_of(path.stem)), seed=11), most):
        for dtype, tile in zip(DTYPES, tiles, strict=True):
            constants.clear()
            constants.update(tile)
            verdict = compare_gradients(spec, case, run, eager, dtype, backend="triton")
            for one in verdict.comparisons:
                if not passes(one, dtype):
                    yield f"{path.stem}, {dtype}, {tile}: {one} in {case}"


def check(path: Path, most: int, tiles: tuple[dict[str, Any], ...] = TILES) -> None:
    """They are verified, or refused for what the catalogue says."""
    said = SAID[path.stem]
    if said == "verified":
        assert not list(misses(path, most, tiles))
        return
    with pytest.raises(UnsupportedError, match=re.escape(said.removeprefix("refused: "))):
        list(misses(path, most, tiles))


@pytest.mark.parametrize("number", range(MOST))
def test_gradients_of_some(number: int, pytestconfig: pytest.Config) -> None:
    """Operators in an order of the run's, every dtype with every shape of tiles in turn."""
    rng = random.Random(pytestconfig.option.seed)
    name = rng.sample(SMALL, len(SMALL))[number]
    check(PATHS[name], 1, TILES if number % 2 else TILES[::-1])


def test_rows_that_see_little_but_one_key() -> None:
    """The difference from <g, out> is small: the result as it is stored, rounded, will not do."""
    spec = load(PATHS["softmax"])
    case = draw_case(spec, Shape(12, 20, 8, 4, 1, 1, 1, magnitude=8.0), seed=0)
    run, eager = Operator(spec, "triton"), Operator(spec, "eager")
    verdict = compare_gradients(spec, case, run, eager, torch.bfloat16, backend="triton")
    assert verdict.passed, verdict.comparisons


@pytest.mark.torture
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_gradients(path: Path) -> None:
    if has_kernels(path):
        check(path, 3)
