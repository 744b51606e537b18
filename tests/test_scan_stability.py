"""Recurrences over 64k rows with decays from 1e-6 to 1 and resets: finite, and as near to float64
as the sequential form; how long the blocks of a backward are changes nothing."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import attnc
from attnc import family
from attnc.bench.recurrences import CASES, ScanCase, called
from attnc.bench.scan_figures import LONG, REGIMES, errors, hostile, sequential, stability
from attnc.cli.show import member_text, stage_text
from attnc.front import load_source, read_spec
from attnc.operator import Operator
from attnc.passes import scan_gradients

WIDTH = 3  # few numbers a row, so that the yardstick's loop over rows is short
BLOCKS = (1, 7, 32, 300)


@cache
def operator_of(case: ScanCase) -> Any:
    return attnc.compile(case.text, name="bench", backend="cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_long_and_hostile(case: ScanCase, dtype: torch.dtype) -> None:
    figure = stability(case, operator_of(case), dtype, LONG, WIDTH)
    assert figure.holds, figure


@pytest.mark.parametrize("case", CASES[::2], ids=lambda case: case.name)
def test_wide_rows(case: ScanCase) -> None:
    """A row reads a sum over the width, which must round no more than the sequential form's does:
    heads whose decay is almost 0 have nothing else that rounds."""
    operator = operator_of(case)
    figure = stability(case, operator, torch.float32, 1024, 96)
    assert figure.holds, figure
    tensors = hostile(case, 1024, 96, torch.float32)
    truth = sequential(tensors, float)
    ours = called(operator, tensors)[0].double().numpy()
    theirs = sequential(tensors, np.float32)
    for head in range(REGIMES):
        mine, other = errors(ours[head], truth[head])[0], errors(theirs[head], truth[head])[0]
        assert mine < 1.3 * other, (head, mine, other)  # of all rows: no luck of a single one


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_yardstick_is_the_operator(case: ScanCase) -> None:
    tensors = hostile(case, 200, WIDTH, torch.float64)
    truth = torch.from_numpy(operator_of(case).reference(**tensors))
    torch.testing.assert_close(
        torch.from_numpy(sequential(tensors, float))[None], truth, rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients_of_hostile_decays(case: ScanCase) -> None:
    """Finite, and those of float64 to within the rounding of the inputs' type."""
    tensors = hostile(case, 3000, WIDTH, torch.float32)
    found = gradients(operator_of(case), tensors)
    exact = gradients(operator_of(case), {name: x.double() for name, x in tensors.items()})
    for name, slope in found.items():
        assert slope.isfinite().all(), name
        assert (slope - exact[name]).norm() <= 1e-5 * exact[name].norm(), name


def gradients(operator: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    leaves = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    out = called(operator, leaves)
    draw = torch.Generator().manual_seed(3)
    given = torch.randn(out.shape, generator=draw).to(out.dtype)
    return dict(zip(leaves, torch.autograd.grad(out, list(leaves.values()), given), strict=True))


@pytest.mark.parametrize("rows", [1, 7, 300, 301])
def test_blocks_of_the_backward_change_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The states of a block are computed again by the same operations: the same bits."""
    case = CASES[2]
    spec = read_spec(load_source(case.text))
    tensors = hostile(case, rows, WIDTH, torch.float32)
    wanted: dict[str, torch.Tensor] | None = None
    derived = (family._derivative, family._for_both)
    for every in BLOCKS:
        monkeypatch.setattr(scan_gradients, "ROWS", {2: every})
        for each in derived:
            each.cache_clear()
        assert f"in blocks of {every} rows" in member_text(spec, "schedule", "backward")
        found = gradients(Operator(spec, "cpu"), tensors)
        for name, slope in found.items():
            assert wanted is None or torch.equal(slope, wanted[name]), (name, every)
        wanted = found
    for each in derived:
        each.cache_clear()


@pytest.mark.parametrize("isa", ["generic", ""])
def test_rows_of_more_registers_than_a_pass_holds(
    isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass runs over a row of a state in blocks of registers; sums across it go on from block to
    block, and end where the row does."""
    monkeypatch.setenv("ATTNC_CPU_ISA", isa)
    case = CASES[2]
    spec = read_spec(load_source(case.text))
    draw = torch.Generator().manual_seed(5)
    tensors = hostile(case, 40, WIDTH, torch.float64)
    tensors["v"] = torch.randn(1, 4, 40, 67, generator=draw, dtype=torch.float64)
    for dtype, bar in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        given = {name: x.to(dtype) for name, x in tensors.items()}
        found = gradients(Operator(spec, "cpu"), given)
        exact = gradients(Operator(spec, "eager"), {n: x.double() for n, x in given.items()})
        for name, slope in found.items():
            assert (slope - exact[name]).norm() <= bar * exact[name].norm(), (name, dtype)


def test_statements_over_a_state_are_passes() -> None:
    """A state that decays is loaded and stored once a row; one that is corrected is read before.
    Gradients of a state alone are made where its rows are computed again."""
    assert [passes_of(case, "forward") for case in CASES] == [1, 1, 2]
    assert [passes_of(case, "backward") for case in CASES] == [2, 2, 4]


def passes_of(case: ScanCase, which: str) -> int:
    spec = read_spec(load_source(case.text))
    text = stage_text(spec, "cpu") if which == "forward" else member_text(spec, "cpu", which)
    return text.count("([&](auto count, int64_t begin)")
