"""Recurrences on Triton: row by row in the interpreter, against the float64 oracle; registers and
spills ahead of time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attnc.backends.numpy_oracle import evaluate as oracle
from recurrences import SPECS
from triton_scans import call_of, run, spec_of

from attnc.cases import Shape, draw_case
from attnc.operator import Operator
from attnc.runtime.triton_plan import power_of_two, scan_parts
from attnc.verification import FLOOR, LARGEST_RATIO, relative_errors

# Odd widths, one of them longer than the least part; few rows, as the interpreter is slow.
SHAPE = Shape(5, 5, 5, 11, 1, 2, 1)
OUT = frozenset({"out"})


def expected(name: str, shape: Shape, seed: int = 1, **extras: Any) -> Any:
    case = draw_case(spec_of(name), shape, seed)
    return oracle(spec_of(name), case.tensors, case.numbers, **case.extras, **extras)


def close(found: torch.Tensor, wanted: Any) -> None:
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SPECS)
def test_float64_is_the_oracle(name: str) -> None:
    found = run(name, call_of(name, SHAPE, torch.float64), OUT)["out"]
    close(found, expected(name, SHAPE)["out"])


@pytest.mark.parametrize("rows, batch", [(0, 1), (1, 2), (5, 0)])
def test_lengths(rows: int, batch: int) -> None:
    shape = replace(SHAPE, rows=rows, keys=rows, batch=batch)
    found = run("gated_delta", call_of("gated_delta", shape, torch.float64), OUT)["out"]
    assert found.shape == (batch, 2, rows, 11)
    close(found, expected("gated_delta", shape)["out"])


@pytest.mark.parametrize(
    "name, block", [("gla", 1), ("mamba", 4), ("running_max", 2), ("rg_lru", 2)]
)
def test_widths_in_parts(name: str, block: int) -> None:
    """Where nothing is folded along a width, any part of it is a program's."""
    axis = {"mamba": "C", "rg_lru": "C"}.get(name, "E")
    call = call_of(name, SHAPE, torch.float64)
    found = run(name, call, OUT, **{f"BLOCK_{axis}": block})["out"]
    close(found, expected(name, SHAPE)["out"])


def test_states_in_and_out() -> None:
    first = np.random.default_rng(1).standard_normal((1, 2, 5, 11))
    call = call_of("linear_attention", SHAPE, torch.float64, S=torch.from_numpy(first))
    wanted = expected("linear_attention", SHAPE, emit=("S", "z"), states={"S": first})
    module_wants = frozenset({"out"})
    close(run("linear_attention", call, module_wants)["out"], wanted["out"])
    op = Operator(spec_of("linear_attention"), "triton")
    found = op(**{n: call.tensors[n] for n in ("q", "k", "v", "S")}, emit=("S", "z"))
    for name, one in zip(("out", "S", "z"), found, strict=True):
        close(one, wanted[name])


def test_a_decay_that_vanishes_forgets() -> None:
    call = call_of("gla", SHAPE, torch.float64)
    call.tensors["g"][:, :, 3] = torch.inf
    whole = run("gla", call, OUT)["out"]
    assert torch.isfinite(whole).all()
    for name in ("q", "k", "v", "g"):
        call.tensors[name] = call.tensors[name][:, :, 3:]
    call.known["len_t"] = 2
    torch.testing.assert_close(whole[:, :, 3:], run("gla", call, OUT)["out"], rtol=0, atol=0)


def test_strides() -> None:
    call = call_of("gated_delta", SHAPE, torch.float64)
    wanted = run("gated_delta", call, OUT)["out"]
    for name in ("q", "k", "v", "beta"):
        tensor = call.tensors[name]
        room = torch.full((*tensor.shape, 2), torch.nan, dtype=tensor.dtype)
        room[..., 1] = tensor
        call.tensors[name] = room[..., 1]
    assert torch.equal(run("gated_delta", call, OUT)["out"], wanted)


@pytest.mark.parametrize("name", ["linear_attention", "gated_delta", "mamba"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_error_is_that_of_eager_torch(name: str, dtype: torch.dtype) -> None:
    shape = replace(SHAPE, rows=12, keys=12)
    call = call_of(name, shape, dtype)
    exact = {n: t.double().numpy() for n, t in call.tensors.items()}
    case = draw_case(spec_of(name), shape, 1)
    wanted = oracle(spec_of(name), {n: exact[n] for n in case.tensors}, case.numbers)["out"]
    found = run(name, call, OUT)["out"].double().numpy()
    given = {n: call.tensors[n] for n in case.tensors}
    theirs = Operator(spec_of(name), "eager")(**given, **case.numbers).double().numpy()
    mine, other = (relative_errors(one, wanted, wanted.ndim - 1) for one in (found, theirs))
    for error, yardstick, floor in zip(mine, other, FLOOR[dtype], strict=True):
        assert error <= LARGEST_RATIO * max(yardstick, floor), (mine, other)


# the plan ---------------------------------------------------------------------------------------


def test_parts_hold_few_entries() -> None:
    for width in (1, 3, 16, 64, 100, 128, 256):
        widths = {"d": width, "e": width}
        blocks, warps = scan_parts(widths, (("d", "e"),), ("e",), 16)
        assert blocks["d"] == power_of_two(width)
        assert blocks["d"] * blocks["e"] <= 2048 * warps
    assert scan_parts({"d": 128, "e": 128}, (("d", "e"),), (), 16) == ({"d": 128, "e": 128}, 16)


# ahead of time ----------------------------------------------------------------------------------

CASES = ("gated_delta:bfloat16:128", "rwkv7:float32:128", "mamba:float32:64", "momentum:float32:64")


@cache
def reports(capability: int) -> dict[str, list[dict[str, Any]]]:
    """What the compiler made of the kernels; in a process without the interpreter."""
    script = Path(__file__).with_name("triton_scans.py")
    environment = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(script), str(capability), *CASES],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["wanted"]: line["kernels"] for line in lines}


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("wanted", CASES)
def test_nothing_spills(capability: int, wanted: str) -> None:
    (kernel,) = reports(capability)[wanted]
    assert not kernel["stack"], kernel
    assert not kernel["tf32"]
