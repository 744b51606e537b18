"""`random()` of both kernel backends is the oracle's number, bit for bit, wherever a pair lies.

The operator has no product: its weights are the numbers, and one-hot values bring a block of keys
back unchanged."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported anywhere

import numpy as np
import pytest
import torch
from attnc.backends.cpu import emit as emit_cpu
from triton_cases import backend, bind

from attnc import philox
from attnc.compiler import lower
from attnc.front import load_source, read_spec
from attnc.runtime.cpu_build import LEVELS, instruction_level
from attnc.runtime.cpu_calls import CpuBackend

WEIGHTS = """
attention drawn(q, k, v):
    normalize: random()
"""
SECOND = """
attention drawn(q, k, v):
    normalize: where(random() < 2, random(), 0)
"""
DROPPED = """
attention dropped(q, k, v):
    param rate: real = 0.0
    mask: j <= i
    score: dot(q[i], k[j]) * scale
    normalize: dropout(softmax(j: score), rate)
"""
SCHEDULES = {text: lower(read_spec(load_source(text))).schedule for text in (WEIGHTS, SECOND)}
ISAS = [name for level, (name, _) in LEVELS.items() if level <= instruction_level()]
BLOCK = 32
MANUAL = Path(__file__).parents[1] / "grammar" / "README.md"


def numbers(
    run: Any, text: str, rows: int, keys: int, heads: tuple[int, int], batch: int, **extras: Any
) -> torch.Tensor:
    """The numbers of every pair [b, h, i, j], a block of keys at a time."""
    schedule, parts = SCHEDULES[text], []
    dtype = extras.pop("dtype", torch.float32)
    for first in range(0, keys, BLOCK):
        v = torch.zeros(batch, heads[1], keys, BLOCK, dtype=dtype)
        taken = torch.arange(first, min(first + BLOCK, keys))
        v[:, :, taken, taken - first] = 1
        q = torch.zeros(batch, heads[0], rows, 1, dtype=dtype)
        k = torch.zeros(batch, heads[1], keys, 1, dtype=dtype)
        call = bind(schedule, {"q": q, "k": k, "v": v}, {}, **extras)
        (out, *_) = run(call, frozenset({"out"}))
        parts.append(out[..., : len(taken)])
    return torch.cat(parts, -1)


def expected(
    ordinal: int, rows: int, keys: int, heads: int, batch: int, **extras: Any
) -> torch.Tensor:
    def column(at: Any) -> Any:
        return at.numpy()[:, None, None, None] if isinstance(at, torch.Tensor) else at

    b, h = np.arange(batch)[:, None, None, None], np.arange(heads)[:, None, None]
    i = np.arange(rows)[:, None] + column(extras.get("offset", 0))
    j = np.arange(keys) + column(extras.get("key_offset", 0))
    return torch.from_numpy(philox.uniform(extras.get("seed", 0), ordinal, b, h, i, j))


SHAPES = [
    # rows, keys, heads, batch, extras
    (70, 67, (3, 3), 1, {"seed": 5}),
    (130, 33, (4, 2), 1, {"seed": -(2**63), "offset": 1, "key_offset": 3}),
    (1, 90, (2, 1), 2, {"seed": 2**40 + 3, "offset": 1000, "key_offset": -7}),
    (5, 41, (6, 1), 1, {"seed": 2**63 - 1, "offset": -4}),
    (40, 40, (1, 1), 3, {"offset": torch.tensor([0, 5, 2]), "key_offset": torch.tensor([3, 0, 1])}),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_cpu(shape: int, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every instruction set, in the kernel that lays lanes along rows and the one along keys."""
    monkeypatch.setenv("ATTNC_CPU_ISA", isa)
    rows, keys, heads, batch, extras = SHAPES[shape]
    run = CpuBackend(emit_cpu(SCHEDULES[WEIGHTS]))
    for dtype in (torch.float32, torch.float64):
        found = numbers(run, WEIGHTS, rows, keys, heads, batch, dtype=dtype, **extras)
        assert torch.equal(found.double(), expected(0, rows, keys, heads[0], batch, **extras))


@pytest.mark.parametrize("tile", [(16, 16), (32, 64), (64, 32)])
@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_triton(shape: int, tile: tuple[int, int], tmp_path: Path) -> None:
    """Every tile size, with and without splits, heads of a group packed or not."""
    rows, keys, heads, batch, extras = SHAPES[shape]
    rows, keys = min(rows, 33), min(keys, 45)
    for splits in (1, 2):
        forced = {"BLOCK_HELD": tile[0], "BLOCK_WALKED": tile[1], "splits": splits}
        run = backend(SCHEDULES[WEIGHTS], tmp_path, **forced)
        found = numbers(run, WEIGHTS, rows, keys, heads, batch, **extras)
        assert torch.equal(found.double(), expected(0, rows, keys, heads[0], batch, **extras))


def test_each_place_in_the_text_has_its_own(tmp_path: Path) -> None:
    rows, keys, heads, batch, extras = SHAPES[0]
    wanted = expected(1, rows, keys, heads[0], batch, **extras)
    for run in (CpuBackend(emit_cpu(SCHEDULES[SECOND])), backend(SCHEDULES[SECOND], tmp_path)):
        found = numbers(run, SECOND, rows, keys, heads, batch, **extras)
        assert torch.equal(found.double(), wanted)


def test_the_manual_tells_the_truth() -> None:
    """The test vectors of grammar/README.md."""
    text = MANUAL.read_text(encoding="utf-8")
    words = re.findall(r"^\| `((?:[0-9a-f]{8} ?){4})` \| `(.*)` \| `(.*)` \|$", text, re.M)
    assert len(words) == 3
    for row in words:
        counter, key, result = ([int(word, 16) for word in cell.split()] for cell in row)
        assert [int(word) for word in philox.philox(tuple(counter), tuple(key))] == result  # type: ignore[arg-type]
    rows = re.findall(r"^\|((?: \d+ \|){6}) (0\.\d+) \|$", text, re.M)
    assert len(rows) == 5
    for cells, number in rows:
        seed, ordinal, *at = (int(cell) for cell in cells.strip(" |").split("|"))
        assert philox.uniform(seed, ordinal, *at) == float(number)


# --- Statistics ----------------------------------------------------------------------------------


def test_uniform() -> None:
    """Mean, variance and the 64 equal parts of [0, 1) (chi-square, 5 sigma)."""
    run = CpuBackend(emit_cpu(SCHEDULES[WEIGHTS]))
    found = numbers(run, WEIGHTS, 256, 256, (2, 1), 2, seed=99).double().flatten()
    count = len(found)
    assert found.min() >= 0 and found.max() < 1
    assert abs(found.mean() - 0.5) < 5 * math.sqrt(1 / 12 / count)
    assert abs(found.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / count)
    parts = torch.bincount((found * 64).long(), minlength=64).double()
    chi = ((parts - count / 64) ** 2 / (count / 64)).sum()
    assert abs(chi - 63) < 5 * math.sqrt(2 * 63)


@pytest.mark.parametrize("axis", ["b", "h", "i", "j", "seed", "ordinal"])
def test_neighbours_are_independent(axis: str) -> None:
    """No correlation between numbers that are 1, 2, 3, 4 or 7 steps apart along one of the six."""
    size, count = 16, 16 * 16 * 64
    for step in (1, 2, 3, 4, 7):
        at: dict[str, Any] = {"b": 2, "h": 1, "i": np.arange(size)[:, None], "j": np.arange(64)}
        at |= {"seed": 3, "ordinal": 0}
        draws = []
        for shift in (0, step):
            moved = {**at, axis: at[axis] + shift}
            b = np.arange(size)[:, None, None] if axis not in "bh" else moved["b"]
            h = moved["h"] if axis in "bh" else 1
            if axis in "bh":  # the other of the two varies
                other = np.arange(size)[:, None, None]
                b, h = (moved["b"], other) if axis == "b" else (other, moved["h"])
            key = (moved["seed"], moved["ordinal"])
            draws.append(philox.uniform(*key, b, h, moved["i"], moved["j"]).ravel() - 0.5)
        correlation = np.mean(draws[0] * draws[1]) * 12
        assert abs(correlation) < 5 / math.sqrt(count), (axis, step)


def test_dropout_keeps_the_mean() -> None:
    """Over many seeds the result is that without dropout, within five standard errors."""
    import attnc

    operator = attnc.compile(DROPPED, backend="cpu")
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 40, 8, generator=generator) for _ in range(3))
    whole = operator(q, k, v)
    draws = torch.stack([operator(q, k, v, rate=0.3, seed=seed) for seed in range(400)])
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - whole).abs() <= 5 * error + 1e-6).all()
    assert torch.equal(draws[3], operator(q, k, v, rate=0.3, seed=3))
    assert not torch.equal(draws[3], draws[4])


@pytest.mark.parametrize("heads, rows, keys, offset", [((4, 2), 37, 53, 5), ((3, 3), 70, 70, 0)])
def test_backward_drops_what_the_forward_dropped(
    heads: tuple[int, int], rows: int, keys: int, offset: int
) -> None:
    """Gradients of the C++ kernels against eager's, whose numbers are the oracle's."""
    import attnc

    found = []
    for name in ("eager", "cpu"):
        operator, generator = attnc.compile(DROPPED, backend=name), torch.Generator().manual_seed(1)
        sizes = ((heads[0], rows), (heads[1], keys), (heads[1], keys))
        q, k, v = (torch.randn(2, h, n, 16, generator=generator) for h, n in sizes)
        inputs = [x.requires_grad_() for x in (q, k, v)]
        result = operator(*inputs, rate=0.4, seed=12, offset=offset)
        gradient = torch.randn(result.shape, generator=generator)
        found.append((result, *torch.autograd.grad(result, inputs, gradient)))
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)
