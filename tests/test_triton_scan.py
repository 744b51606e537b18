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
import triton_interpreter  # noqa: F401
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
        blocks, _, warps = scan_parts(widths, (("d", "e"),), ("e",), 16)
        assert blocks["d"] == power_of_two(width)
        assert blocks["d"] * blocks["e"] <= 2048 * warps
    assert scan_parts({"d": 128, "e": 128}, (("d", "e"),), (), 16) == ({"d": 128, "e": 128}, {}, 16)


# ahead of time ----------------------------------------------------------------------------------

# The second number is of rows: where they are many they run in tiles, or in 16 bits in chunks.
CASES = (
    "gated_delta:bfloat16:128:8", "rwkv7:float32:128:8", "mamba:float32:64:64",
    "gated_delta:bfloat16:64:128", "gla:bfloat16:64:128", "linear_attention:bfloat16:64:128",
)  # fmt: skip
GRADIENTS = ("gradient.gated_delta:bfloat16:64:8", "gradient.gla:bfloat16:128:8")
IN_CHUNKS = "gradient.gated_delta:bfloat16:64:128"


@cache
def reports(capability: int) -> dict[str, list[dict[str, Any]]]:
    """What the compiler made of the kernels; in a process without the interpreter."""
    script = Path(__file__).with_name("triton_scans.py")
    wanted = CASES + ((*GRADIENTS, IN_CHUNKS) if capability == 90 else ())
    environment = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(script), str(capability), *wanted],
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
    assert kernel["kernel"].endswith("_chunks") == wanted.endswith(":128")
    assert wanted.endswith(":128") or not kernel["tf32"]


@pytest.mark.parametrize("wanted", GRADIENTS)
def test_no_gradient_spills(wanted: str) -> None:
    (kernel,) = reports(90)[wanted]
    assert kernel["kernel"].endswith("_backward") and not kernel["stack"], kernel


def test_a_reverse_in_chunks_compiles() -> None:
    """It spills, as backends/README.md says: no more than this."""
    (kernel,) = reports(90)[IN_CHUNKS]
    assert kernel["kernel"].endswith("_backward_chunks") and kernel["tf32"]
    assert kernel["stack"] <= 640 and kernel["shared"] <= 65536, kernel


# in chunks --------------------------------------------------------------------------------------

CHUNKED = (
    "linear_attention", "constant_decay", "gla", "value_decay", "rwkv6", "delta_rule",
    "gated_delta", "householder", "rwkv7", "mamba2", "document_reset", "lagged",
    "key_heads", "momentum",
)  # fmt: skip


@pytest.mark.parametrize("name", CHUNKED)
def test_chunks_are_the_oracle(name: str) -> None:
    """Two chunks of two blocks, the last one not full."""
    shape = replace(SHAPE, rows=37, keys=37, key_heads=1)
    found = run(name, call_of(name, shape, torch.float64), OUT, chunked=True, CHUNK=32)["out"]
    close(found, expected(name, shape)["out"])


@pytest.mark.parametrize("name", ["gated_delta", "gla", "value_decay"])
@pytest.mark.parametrize("rows, chunk", [(0, 16), (1, 16), (33, 16), (64, 64)])
def test_the_chunk_never_shows(name: str, rows: int, chunk: int) -> None:
    shape = replace(SHAPE, rows=rows, keys=rows, key_heads=1)
    found = run(name, call_of(name, shape, torch.float64), OUT, chunked=True, CHUNK=chunk)["out"]
    close(found, expected(name, shape)["out"])


@pytest.mark.parametrize("name", ["gla", "gated_delta", "householder", "value_decay"])
def test_decays_of_any_size_in_chunks(name: str) -> None:
    """Decays from 1 down to 0, among rows and channels: in float32 as near as row by row."""
    shape = replace(SHAPE, rows=40, keys=40, key_heads=1)
    call = call_of(name, shape, torch.float32)
    logs = np.array([0.0, -1e-6, -1.0, -13.8, -800.0, -np.inf])
    drawn = np.random.default_rng(5).choice(logs, call.tensors["g"].shape)
    grows = -1 if name != "value_decay" else 1  # of softplus(g), of sigmoid(g)
    gate = np.where(drawn == 0.0, 40.0, drawn) * grows
    call.tensors["g"] = torch.from_numpy(gate).float()
    exact = {n: t.double().numpy() for n, t in call.tensors.items()}
    case = draw_case(spec_of(name), shape, 1)
    wanted = oracle(spec_of(name), {n: exact[n] for n in case.tensors}, case.numbers)["out"]
    errors = []
    for chunked in (True, False):
        found = run(name, call, OUT, chunked=chunked, CHUNK=32)["out"].double().numpy()
        assert np.isfinite(found).all()
        errors.append(relative_errors(found, wanted, wanted.ndim - 1))
    for mine, other, floor in zip(*errors, FLOOR[torch.float32], strict=True):
        assert mine <= LARGEST_RATIO * max(other, floor), errors


def test_states_in_and_out_of_chunks() -> None:
    shape = replace(SHAPE, rows=20, keys=20, key_heads=1)
    first = np.random.default_rng(1).standard_normal((1, 1, 5, 11))
    call = call_of("linear_attention", shape, torch.float64, S=torch.from_numpy(first))
    wanted = expected("linear_attention", shape, states={"S": first}, emit=("S", "z"))
    found = run("linear_attention", call, OUT, chunked=True, CHUNK=16)
    close(found["out"], wanted["out"])


def test_equal_keys_solve_exactly() -> None:
    """The triangular system of keys that are all the same: powers of its matrix would cancel."""
    shape = replace(SHAPE, rows=64, keys=64, key_heads=1)
    call = call_of("delta_rule", shape, torch.float32)
    call.tensors["k"] = call.tensors["k"][:, :, :1].expand(call.tensors["k"].shape)
    call.tensors["beta"] = torch.full_like(call.tensors["beta"], 4.0)
    exact = {n: t.double().numpy() for n, t in call.tensors.items()}
    case = draw_case(spec_of("delta_rule"), shape, 1)
    given = {n: exact[n] for n in case.tensors}
    wanted = oracle(spec_of("delta_rule"), given, case.numbers)["out"]
    found = run("delta_rule", call, OUT, chunked=True, CHUNK=64)["out"].double().numpy()
    assert max(relative_errors(found, wanted, wanted.ndim - 1)) < 1e-5
