"""CPU kernels against the dense formula in float64: hostile shapes, dtypes, instruction sets."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import pytest
import torch
from cpu_cases import CASES, DTYPES, check, cpu_backend, run
from triton_cases import bind

import attnc
from attnc.errors import AttncError, UnsupportedError
from attnc.runtime import cpu_build
from attnc.runtime.cpu_build import (
    AVX512_BF16,
    TILES,
    build_library,
    instruction_level,
    levels_here,
)

ISAS = levels_here()
EMULATED = "amx_emulated"
shipped_build = pytest.mark.usefixtures("shipped_build")
drawn_build = pytest.mark.usefixtures("drawn_build")
LENGTHS = (0, 1, 2, 127, 128, 129, 257)
WIDTHS = (1, 3, 8, 15, 31, 64, 72, 80, 96, 121, 128, 192, 256, 576)


@drawn_build
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("isa", ISAS)
def test_instruction_sets(isa: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window with sinks, at every level, in the tile kernel and the kernel for few rows."""
    monkeypatch.setenv("ATTNC_CPU_ISA", isa)
    case = CASES["window"]
    for rows, keys, offset in ((70, 133, 63), (200, 200, 0), (3, 1300, 1297), (1, 40, 39)):
        check("window", case.tensors(dtype, rows, keys, 20, 24), offset=offset)


@pytest.mark.parametrize(
    ("name", "width", "across"), [("window", 33, 65), ("dense", 72, 80), ("causal", 576, 16)]
)
def test_tiles(name: str, width: int, across: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products through tile registers, emulated: filled tiles and what is left beside them."""
    if EMULATED not in ISAS:
        return  # the code around tiles is that of avx512_bf16
    monkeypatch.setenv("ATTNC_CPU_ISA", EMULATED)
    for rows, keys in ((64, 64), (70, 133), (200, 48), (17, 31)):
        tensors = CASES[name].tensors(torch.bfloat16, rows, keys, width, across)
        check(name, tensors, offset=keys - rows)
    clean, _ = run(name, tensors, CASES[name].numbers, offset=14)
    monkeypatch.setenv("ATTNC_CPU_ISA", "avx512_bf16")
    other, _ = run(name, tensors, CASES[name].numbers, offset=14)
    torch.testing.assert_close(clean, other, rtol=2**-6, atol=2**-6)


@shipped_build
def test_tile_instructions_compile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The code for machines with AMX is built by this compiler and holds its instructions."""
    monkeypatch.setenv("ATTNC_CACHE", str(tmp_path))
    case = CASES["window"]
    call = bind(case.schedule, case.tensors(torch.bfloat16, 4, 4, 72, 80), case.numbers)
    backend = cpu_backend("window")
    library = build_library(backend.source, backend._own_macros(call, False, None), TILES)
    listing = subprocess.run(
        ["objdump", "-d", library], capture_output=True, text=True, check=True
    ).stdout
    for instruction in ("ldtilecfg", "tileloadd", "tdpbf16ps", "tilestored", "tilerelease"):
        assert instruction in listing


def test_tiles_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for by name, a missing instruction set is an error that says what is missing."""
    monkeypatch.setenv("ATTNC_CPU_ISA", "amx")
    monkeypatch.setattr(cpu_build.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu_build, "processor_features", lambda: frozenset(AVX512_BF16))
    with pytest.raises(UnsupportedError, match="lacks amxbf16, amxtile"):
        instruction_level()
    both = frozenset((*AVX512_BF16, "amxbf16", "amxtile"))
    monkeypatch.setattr(cpu_build, "processor_features", lambda: both)
    monkeypatch.setattr(cpu_build, "tiles_permitted", lambda: False)
    with pytest.raises(UnsupportedError, match="refuses"):
        instruction_level()
    monkeypatch.setattr(cpu_build, "tiles_permitted", lambda: True)
    assert instruction_level() == TILES
    monkeypatch.delenv("ATTNC_CPU_ISA")
    assert instruction_level() == TILES


@drawn_build
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("float32", "bfloat16"))
@pytest.mark.parametrize("name", sorted(CASES))
def test_shelf(name: str, dtype: torch.dtype) -> None:
    """Every operator of the shelf: masks, scores, normalizers, sources, prepared rows."""
    case = CASES[name]
    for rows, keys, offset in ((129, 129, 0), (17, 90, 73), (2, 300, 298)):
        check(name, case.tensors(dtype, rows, keys, 16, 24), offset=offset)


@pytest.mark.parametrize("keys", LENGTHS)
@pytest.mark.parametrize("rows", LENGTHS)
def test_lengths(rows: int, keys: int) -> None:
    """Lengths around tiles and blocks, longer and shorter keys, rows that see nothing."""
    dtype = DTYPES[(rows + keys) % 2]
    for name in ("causal", "dense"):
        tensors = CASES[name].tensors(dtype, rows, keys, 16, 24)
        check(name, tensors, offset=keys - rows)
        check(name, tensors, key_offset=3)


@pytest.mark.parametrize("width", WIDTHS)
def test_widths(width: int) -> None:
    """Any width, another value width, odd groups."""
    across = WIDTHS[(WIDTHS.index(width) * 5 + 3) % len(WIDTHS)]
    dtype = DTYPES[WIDTHS.index(width) % 4]
    for heads in ((3, 3), (7, 1), (6, 2)):
        check("causal", CASES["causal"].tensors(dtype, 40, 75, width, across, heads, 1), offset=35)
        # A batch of single rows: the error of one row alone is mostly chance.
        check("causal", CASES["causal"].tensors(dtype, 1, 75, width, across, heads, 32), offset=74)


@pytest.mark.parametrize("group", (1, 3, 7, 8))
def test_groups(group: int) -> None:
    for rows in (1, 2, 33):
        tensors = CASES["window"].tensors(torch.float32, rows, 50, 16, 24, (2 * group, 2))
        check("window", tensors, offset=50 - rows)


def test_empty_batch_and_heads() -> None:
    for batch, heads in ((0, (4, 2)), (2, (0, 0))):
        tensors = CASES["causal"].tensors(torch.float32, 5, 7, 16, 24, heads, batch)
        out, lse = run("causal", tensors, {"scale": 0.3})
        assert out.shape == (batch, heads[0], 5, 24) and lse.shape == (batch, heads[0], 5)


def test_offsets_and_lengths_of_batches() -> None:
    """Offsets and key lengths that differ within the batch."""
    tensors = CASES["window"].tensors(torch.float32, 9, 80, 16, 24)
    offset, key_offset = torch.tensor([70, 31]), torch.tensor([0, 5])
    key_length = torch.tensor([80, 33])
    check("window", tensors, offset=offset, key_offset=key_offset, key_length=key_length)
    check("causal", tensors, offset=offset, key_length=torch.tensor([0, 17]))
    single = CASES["window"].tensors(torch.bfloat16, 1, 80, 16, 24)
    check("window", single, offset=offset, key_length=key_length)


@pytest.mark.parametrize("rows", (1, 70))
@pytest.mark.parametrize("scale", (1e-30, 1e-12, 30.0, 1e15))
def test_magnitudes(scale: float, rows: int) -> None:
    """Tiny and large queries; tiny and large values."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        tensors = CASES["causal"].tensors(dtype, rows, 70, 16, 24)
        if dtype is not torch.float64 or scale < 1e10:  # else float64 is no reference
            check("causal", {**tensors, "q": tensors["q"] * scale}, offset=70 - rows)
        check("causal", {**tensors, "v": tensors["v"] * scale}, offset=70 - rows)


@pytest.mark.parametrize("rows", (1, 70))
def test_rising_scores(rows: int) -> None:
    """The largest exponent moves in every block, either way."""
    for direction in (1.0, -1.0):
        tensors = CASES["dense"].tensors(torch.float32, rows, 2000, 16, 24)
        tensors["k"] = torch.linspace(0, 30 * direction, 2000)[:, None] + tensors["k"] * 0.1
        tensors["k"] = tensors["k"].expand(2, 2, 2000, 16)
        tensors["q"] = tensors["q"].abs()
        check("dense", tensors)


@pytest.mark.parametrize("rows", (2, 70))
def test_nan_and_infinity_stay_in_their_row(rows: int) -> None:
    for poison in (math.nan, math.inf):
        tensors = CASES["causal"].tensors(torch.float32, rows, 70, 16, 24)
        clean, _ = run("causal", tensors, {"scale": 0.3}, offset=70 - rows)
        tensors["q"][0, 1, 1, 2] = poison
        out, lse = run("causal", tensors, {"scale": 0.3}, offset=70 - rows)
        assert out[0, 1, 1].isnan().all() and not lse[0, 1, 1].isfinite()
        out[0, 1, 1] = clean[0, 1, 1]
        assert torch.equal(out, clean)


@pytest.mark.parametrize("poison", (math.nan, math.inf))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("float32", "bfloat16"))
@pytest.mark.parametrize("rows", (2, 70))
def test_masked_keys_do_not_leak(rows: int, dtype: torch.dtype, poison: float) -> None:
    """A masked key is outside every sum, whatever stands there."""
    tensors = CASES["causal"].tensors(dtype, rows, 70, 16, 24)
    offset = 70 - rows
    clean, _ = run("causal", tensors, {"scale": 0.3}, offset=offset)
    for name in ("k", "v"):
        hurt = {**tensors, name: tensors[name].clone()}
        hurt[name][:, :, 69] = poison
        out, _ = run("causal", hurt, {"scale": 0.3}, offset=offset)
        near = 0 if dtype is torch.float32 else 2**-7  # sums of pairs are taken apart then
        torch.testing.assert_close(
            out[:, :, : rows - 1], clean[:, :, : rows - 1], rtol=near, atol=near
        )
        assert not out[:, :, rows - 1].isfinite().any() or name == "k"


def test_far_positions_need_wide_integers() -> None:
    """Offsets beyond 32 bits."""
    tensors = CASES["window"].tensors(torch.float32, 70, 70, 16, 24)
    near, _ = run("window", tensors, {"scale": 0.3, "size": 20, "sinks": 0})
    far, _ = run(
        "window", tensors, {"scale": 0.3, "size": 20, "sinks": 0}, offset=2**40, key_offset=2**40
    )
    assert torch.equal(near, far)
    whole, _ = run("window", tensors, {"scale": 0.3, "size": 2**40, "sinks": 0})
    causal, _ = run("causal", tensors, {"scale": 0.3})
    assert torch.equal(whole, causal)


CAUSAL = """
attention causal(q, k, v):
    mask: j <= i
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
"""


def test_offsets_in_tensors_are_calls_of_a_known_form() -> None:
    """Prepared once, looked at in every call: what they say, their bounds, reads that they move."""
    operator = attnc.compile(CAUSAL, backend="cpu")
    q, k = torch.randn(2, 2, 3, 16), torch.randn(2, 2, 40, 16)
    kernels = operator._run  # the choice of this backend
    for first, length in ((0, 40), (9, 11), (37, 0), (2**33, 40)):
        offset, key_length = torch.tensor([first, 5]), torch.tensor([length, 39])
        out = operator(q, k, k, offset=offset, key_length=key_length)
        wanted = operator.reference(q, k, k, offset=offset, key_length=key_length)
        torch.testing.assert_close(out.double(), torch.as_tensor(wanted), rtol=1e-5, atol=1e-5)
        assert len(kernels._prepared) == 1
    for wrong in (-1, 41):
        with pytest.raises(AttncError, match="key_length"):
            operator(q, k, k, offset=offset, key_length=torch.tensor([wrong, 39]))
    one = operator(q, k, k, offset=torch.tensor(7), key_length=torch.tensor([40, 39]))
    narrow = operator(q, k, k, offset=torch.tensor(7, dtype=torch.int32))
    assert torch.equal(one[:1], narrow[:1]) and len(kernels._prepared) == 2
    assert torch.equal(one, operator(q, k, k, offset=7, key_length=torch.tensor([40, 39])))


def test_reads_are_tested_in_prepared_calls_with_offsets() -> None:
    operator = attnc.compile(
        "attention moved(q, k, v):\n    input bias: real[slot]\n    mask: 0 <= i - j\n"
        "    score: dot(q[i], k[j]) * scale + bias[i - j]\n    normalize: softmax(j: score)\n",
        backend="cpu",
    )
    q, k, bias = torch.randn(2, 1, 2, 8), torch.randn(2, 1, 4, 8), torch.randn(6)
    for first in (2, 4, 3):
        operator(q, k, k, bias=bias, offset=torch.tensor([first, 0]))
    with pytest.raises(AttncError, match="outside"):
        operator(q, k, k, bias=bias, offset=torch.tensor([first, 5]))
    operator(q, k, k, bias=bias, offset=torch.tensor([first, 0]))
