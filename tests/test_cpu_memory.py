"""CPU kernels and memory: strides, padding, threads, forks."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from cpu_cases import CASES, check, cpu_backend, run

import attnc.runtime.cpu_build as cpu_build
import attnc.runtime.cpu_calls as cpu_calls
from attnc.runtime.failures import AttncError, CacheError, CompilerNotFound

NUMBERS = {"scale": 0.3}


def layouts(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same numbers, lying differently."""
    transposed = x.transpose(1, 2).contiguous().transpose(1, 2)
    turned = x.mT.contiguous().mT
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), torch.nan, dtype=x.dtype)
    wide[..., 1::2] = x
    offset = torch.full((x.numel() + 3,), torch.nan, dtype=x.dtype)
    offset[3:] = x.flatten()
    return {
        "transposed": transposed,
        "turned": turned,
        "strided": wide[..., 1::2],
        "offset": offset[3:].view(x.shape),
    }


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("rows", (1, 70))
def test_strides(rows: int, dtype: torch.dtype) -> None:
    tensors = CASES["causal"].tensors(dtype, rows, 75, 16, 24)
    plain, _ = run("causal", tensors, NUMBERS, offset=75 - rows)
    for name in ("q", "k", "v"):
        for kind, x in layouts(tensors[name]).items():
            out, _ = run("causal", {**tensors, name: x}, NUMBERS, offset=75 - rows)
            assert torch.equal(out, plain), (name, kind)


def test_expanded() -> None:
    tensors = CASES["causal"].tensors(torch.float32, 70, 70, 16, 24)
    tensors["v"] = tensors["v"][:1, :1].expand(2, 2, 70, 24)
    tensors["k"] = tensors["k"][:, :, :1].expand(2, 2, 70, 16)
    check("causal", tensors)


@pytest.mark.parametrize("rows", (1, 70))
def test_negative_strides(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C ABI takes them, though torch has none: keys and values from the last to the first."""
    tensors = CASES["causal"].tensors(torch.float32, rows, 75, 16, 24)
    plain, _ = run("causal", tensors, NUMBERS, offset=75 - rows)
    flipped = {name: x if name == "q" else x.flip(2) for name, x in tensors.items()}
    describe = cpu_calls._describe

    def backwards(entry: Any, tensor: torch.Tensor) -> None:
        describe(entry, tensor)
        if tensor is flipped["k"] or tensor is flipped["v"]:
            entry.data += 74 * tensor.stride(2) * tensor.element_size()
            entry.stride[2] = -tensor.stride(2)

    monkeypatch.setattr(cpu_calls, "_describe", backwards)
    out, _ = run("causal", flipped, NUMBERS, offset=75 - rows)
    assert torch.equal(out, plain)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("float32", "bfloat16"))
@pytest.mark.parametrize("rows", (1, 5, 70))
def test_padding_never_leaks(rows: int, dtype: torch.dtype) -> None:
    """NaN stands on every side of every row."""
    tensors = CASES["window"].tensors(dtype, rows, 75, 15, 17)
    numbers = CASES["window"].numbers
    plain, _ = run("window", tensors, numbers, offset=75 - rows)
    framed = {}
    for name, x in tensors.items():
        frame = torch.full([size + 6 for size in x.shape], torch.nan, dtype=dtype)
        frame[3:-3, 3:-3, 3:-3, 3:-3] = x
        framed[name] = frame[3:-3, 3:-3, 3:-3, 3:-3]
    out, lse = run("window", framed, numbers, offset=75 - rows)
    assert torch.equal(out, plain) and lse.isfinite().all()


@pytest.mark.parametrize("rows", (1, 200))
@pytest.mark.parametrize("name", ("causal", "document", "slots", "rotary"))
def test_threads_do_not_change_a_bit(name: str, rows: int) -> None:
    tensors = CASES[name].tensors(torch.bfloat16, rows, 3000 if rows == 1 else 200, 16, 24)
    numbers, before = CASES[name].numbers, torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(run(name, tensors, numbers))
    finally:
        torch.set_num_threads(before)
    for out, lse in results[1:]:
        assert torch.equal(out, results[0][0]) and torch.equal(lse, results[0][1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_after_fork() -> None:
    """A child whose parent has used its threads. (torch's own parallel loops, `torch.equal` among
    them, would wait for ever in it.)"""
    tensors = CASES["causal"].tensors(torch.float32, 300, 300, 16, 24)
    before, _ = run("causal", tensors, NUMBERS)
    child = os.fork()
    if not child:
        signal.alarm(60)
        try:
            after, _ = run("causal", tensors, NUMBERS)
            os._exit(0 if bytes(before.numpy()) == bytes(after.numpy()) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("ATTNC_CACHE", str(tmp_path))
    with pytest.raises(CompilerNotFound, match=r"no-such-compiler.*eager.*numpy"):
        cpu_build.build_library("", {}, 0)


def test_unwritable_and_shared_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATTNC_CACHE", str(tmp_path / "file"))
    with pytest.raises(CacheError, match="ATTNC_CACHE"):
        cpu_build.build_library("", {}, 0)
    shared = tmp_path / "shared"
    (shared / "cpu").mkdir(parents=True)
    (shared / "cpu").chmod(0o777)
    monkeypatch.setenv("ATTNC_CACHE", str(shared))
    with pytest.raises(CacheError, match="private"):
        cpu_build.build_library("", {}, 0)


def test_unknown_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNC_CPU_ISA", "avx1024")
    with pytest.raises(AttncError, match="avx1024"):
        cpu_build.instruction_level()


def test_nothing_is_compiled_twice() -> None:
    """Lengths, strides, batches and heads are values of the call."""
    backend = cpu_backend("causal")
    run("causal", CASES["causal"].tensors(torch.float32, 3, 5, 16, 24), NUMBERS)
    known = set(backend._variants)
    for length in range(1, 40, 2):
        run("causal", CASES["causal"].tensors(torch.float32, length, length, 16, 24), NUMBERS)
    assert set(backend._variants) == known


@pytest.mark.parametrize("extra", [-1, 0, 4097, 3 << 20])
def test_large_results_ask_for_large_pages(extra: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For whole large pages within them, and nothing else."""
    asked: list[tuple[int, int]] = []
    own = cpu_calls._advise

    def asks(first: int, size: int, what: int) -> int:
        asked.append((first, size))
        return int(own(first, size, what))

    if own is not None:
        monkeypatch.setattr(cpu_calls, "_advise", asks)
    made = torch.empty(cpu_calls.LARGE + extra, dtype=torch.uint8)[5:]
    cpu_calls._in_large_pages(made)
    for first, size in asked:
        assert first % cpu_calls.LARGE_PAGE == size % cpu_calls.LARGE_PAGE == 0
        assert made.data_ptr() <= first and first + size <= made.data_ptr() + made.nbytes
    assert len(asked) == (own is not None)
    assert (made.fill_(7) == 7).all()
