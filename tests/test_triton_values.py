"""Triton kernels under Triton's interpreter, against dense formulas in float64.

The interpreter computes bfloat16 and float16 products in float32 and rounds elsewhere than a GPU
does: what 16-bit kernels are held to here is loose, and says that the text is right, no more.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported anywhere

import pytest
import torch
import triton_interpreter  # noqa: F401
from triton_cases import backend, bind
from triton_shelf import CASES, Shelf

from attnc.runtime.triton_tune import TritonTuner

BOTH = frozenset({"out", "lse"})
SMALL = {"BLOCK_HELD": 16, "BLOCK_WALKED": 16}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 6e-2}


def check(
    case: Shelf,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    forced: dict[str, Any] | None = None,
    extras: dict[str, Any] | None = None,
    change: Any = lambda tensors: tensors,
    **sizes: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs a case and compares output and lse with the dense formula."""
    sizes = {"rows": 37, "keys": 50, "width": 24, "across": 40, **sizes}
    tensors = change(case.tensors(dtype, **sizes))
    run = backend(case.schedule, folder, **{**SMALL, **(forced or {})})
    out, lse = run(bind(case.schedule, tensors, case.numbers, **(extras or {})), BOTH)
    exact = {n: t.double() if t.is_floating_point() else t for n, t in tensors.items()}
    wanted, wanted_lse = case.reference(exact, **(extras or {}))
    size = wanted.abs().max().item() if wanted.numel() else 1.0
    torch.testing.assert_close(out.double(), wanted, rtol=0, atol=TOLERANCE[dtype] * max(size, 1))
    limit = TOLERANCE[torch.float64 if dtype is torch.float64 else torch.float32]
    if dtype in (torch.float32, torch.float64):
        torch.testing.assert_close(lse.double(), wanted_lse, rtol=10 * limit, atol=10 * limit)
    assert not out.isnan().any()
    return out, lse


@pytest.mark.parametrize("name", CASES)
def test_values(name: str, tmp_path: Path) -> None:
    check(CASES[name], tmp_path, extras={"offset": 5})


@pytest.mark.parametrize("name", ["causal", "window", "sigmoid", "cosine", "rotary"])
def test_double_precision(name: str, tmp_path: Path) -> None:
    check(CASES[name], tmp_path, torch.float64, extras={"offset": 13})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    check(CASES["window"], tmp_path, dtype)


@pytest.mark.parametrize("rows, keys", [(0, 5), (1, 1), (2, 0), (17, 130), (129, 3), (1, 127)])
def test_lengths(rows: int, keys: int, tmp_path: Path) -> None:
    check(CASES["window"], tmp_path, rows=rows, keys=keys, extras={"offset": max(keys - rows, 0)})


@pytest.mark.parametrize(
    "width, across", [(1, 3), (15, 31), (72, 8), (96, 1), (121, 64), (576, 512)]
)
def test_widths(width: int, across: int, tmp_path: Path) -> None:
    check(CASES["causal"], tmp_path, width=width, across=across, rows=17, keys=19, batch=1)


def test_a_carried_width_in_blocks(tmp_path: Path) -> None:
    check(CASES["causal"], tmp_path, forced={"BLOCK_E": 16}, rows=17, keys=19)


@pytest.mark.parametrize("heads", [(3, 1), (7, 7), (8, 1), (6, 2)])
@pytest.mark.parametrize("packed", [False, True])
def test_groups(heads: tuple[int, int], packed: bool, tmp_path: Path) -> None:
    check(CASES["alibi"], tmp_path, forced={"PACKED": packed}, heads=heads, rows=5, keys=21)


def test_splits_are_deterministic_and_right(tmp_path: Path) -> None:
    forced = {"splits": 4}
    for name in ("window", "slots", "sigmoid", "sink"):
        first = check(
            CASES[name], tmp_path, forced=forced, rows=3, keys=130, extras={"offset": 127}
        )
        again = check(
            CASES[name], tmp_path, forced=forced, rows=3, keys=130, extras={"offset": 127}
        )
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("name", ["causal", "window"])
def test_tile_lists_visit_what_closed_spans_visit(name: str, tmp_path: Path) -> None:
    extras = {"offset": 9}
    closed = check(CASES[name], tmp_path, extras=extras, rows=65, keys=100)
    listed = check(
        CASES[name], tmp_path, forced={"TILE_LIST": True}, extras=extras, rows=65, keys=100
    )
    torch.testing.assert_close(closed, listed, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["window", "document"])
def test_offsets_and_lengths_of_a_batch(name: str, tmp_path: Path) -> None:
    lengths = {"key_length": torch.tensor([50, 0])}
    if name == "window":
        lengths |= {"offset": torch.tensor([3, 40]), "key_offset": torch.tensor([0, 7])}
    check(CASES[name], tmp_path, extras=lengths)


def strided(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same numbers at other strides: transposed, in a larger tensor of NaN, expanded."""
    q = tensors["q"].mT.contiguous().mT
    room = torch.full((*tensors["k"].shape[:2], 2 * tensors["k"].shape[2], 60), torch.nan)
    room[:, :, ::2, 3 : 3 + tensors["k"].shape[3]] = tensors["k"]
    k = room[:, :, ::2, 3 : 3 + tensors["k"].shape[3]]
    v = tensors["v"][:1].expand(tensors["v"].shape)
    return {**tensors, "q": q, "k": k, "v": v}


def test_strides(tmp_path: Path) -> None:
    check(CASES["causal"], tmp_path, change=strided)


def test_descriptors(tmp_path: Path) -> None:
    forced = {"USE_DESCRIPTORS": True}
    check(CASES["window"], tmp_path, forced=forced, width=32, across=16, extras={"offset": 20})


def test_wide_positions(tmp_path: Path) -> None:
    """Beyond 2**20 positions are computed in 64 bits."""
    far = 2**33
    extras = {"offset": far, "key_offset": far - 10}
    check(CASES["window"], tmp_path, extras=extras)


@pytest.mark.parametrize("offset", [0, 7])
def test_visible_set(offset: int, tmp_path: Path) -> None:
    """Zero scores and one-hot values: the output is zero exactly where no key is visible."""
    for name in ("causal", "window", "document"):
        case = CASES[name]
        tensors = case.tensors(torch.float32, rows=33, keys=40, width=16, across=40)
        tensors["q"].zero_()
        tensors["v"][:] = torch.eye(40)
        run = backend(case.schedule, tmp_path, **SMALL)
        out, lse = run(bind(case.schedule, tensors, case.numbers, offset=offset), BOTH)
        i, j = torch.arange(33)[:, None] + offset, torch.arange(40)[None, :]
        seen = case.mask(i=i, j=j, tensors=tensors, **case.numbers).expand(out.shape)
        assert torch.equal(out != 0, seen)
        assert torch.equal(lse == -torch.inf, ~seen.any(-1))


def test_nan_stays_in_its_row(tmp_path: Path) -> None:
    case = CASES["causal"]
    tensors = case.tensors(torch.float32, rows=20, keys=20, width=16)
    tensors["q"][0, 1, 4, 3] = torch.nan
    run = backend(case.schedule, tmp_path, **SMALL)
    (out, _) = run(bind(case.schedule, tensors, case.numbers), frozenset({"out"}))
    assert out[0, 1, 4].isnan().all()
    out[0, 1, 4] = 0
    assert not out.isnan().any()


def test_floor_division_is_floor(tmp_path: Path) -> None:
    """-7 // 2 is -4: the table's buckets lie on both sides of 0."""
    check(CASES["table"], tmp_path, rows=20, keys=41)


def test_tuning_is_kept_beside_the_module(tmp_path: Path) -> None:
    """The fastest candidate is stored, and found again for lengths of the same bucket only."""
    case = CASES["causal"]
    run = backend(case.schedule, tmp_path)
    seconds = iter([3.0, 1.0, 2.0, 4.0, 5.0, 6.0])
    path = tmp_path / "tuned.json"
    tuner = TritonTuner(run, path, lambda run: next(seconds))
    tensors = case.tensors(torch.float32, rows=9, keys=12, width=16)
    call = bind(case.schedule, tensors, case.numbers)
    candidates = run.candidates(call)["kernel_causal"]
    assert 1 < len(candidates) <= 6
    assert tuner.tune(call, BOTH) == {"kernel_causal": candidates[1]}
    assert tuner.chosen("kernel_causal", call) == candidates[1]
    again = TritonTuner(backend(case.schedule, tmp_path), path, lambda run: 0.0)
    near = case.tensors(torch.float32, rows=10, keys=13, width=16)
    assert again.chosen("kernel_causal", bind(case.schedule, near, case.numbers)) == candidates[1]
    far = case.tensors(torch.float32, rows=9, keys=40, width=16)
    assert again.chosen("kernel_causal", bind(case.schedule, far, case.numbers)) is None
    path.write_text("not json")
    assert TritonTuner(run, path, lambda run: 0.0).known == {}
