"""The cache folder and the compiler: private, shared by processes, missing, full of obstacles."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import attnc
from attnc.cache import cache_folder, write_file, write_once
from attnc.errors import AttncError, CacheError, CompilerNotFound
from attnc.runtime import cpu_build

SPEC = """\
attention tiny(q, k, v):
    mask: j <= i
    score: dot(q[i], k[j]) * scale + {term}
    normalize: softmax(j: score)
"""
RUN = """
import sys, torch, attnc
torch.set_num_threads(1)
op = attnc.compile(sys.argv[1])
x = torch.ones(1, 1, 3, 16)
assert bool((op(x, x, x) == 1).all())
"""
X = torch.ones(1, 1, 3, 16)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ATTNC_CACHE", str(folder))
    return folder


@pytest.mark.usefixtures("quick_build")
def test_processes_compile_one_spec_at_once(cache: Path) -> None:
    command = [sys.executable, "-c", RUN, SPEC.format(term="0.125 * j")]
    started = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(4)
    ]
    errors = [one.communicate()[1] for one in started]
    assert [one.returncode for one in started] == [0] * 4, errors
    assert len(list((cache / "cpu").glob("*.so"))) == 1
    assert len(list((cache / "modules").glob("*.py"))) == 1
    assert not [left for left in cache.rglob("*") if left.name.startswith(".")]


def test_folders_are_private(cache: Path) -> None:
    for part in ("modules", "cpu"):
        assert stat.S_IMODE(cache_folder(part).stat().st_mode) == 0o700
    written = write_once(cache_folder("modules") / "a.py", "x = 1\n")
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert write_once(written, "x = 2\n").read_text() == "x = 1\n"


@pytest.mark.parametrize("part", ("modules", "cpu"))
def test_a_folder_that_others_may_write_is_refused(part: str, cache: Path) -> None:
    op = attnc.compile(SPEC.format(term="0.25 * j"))
    folder = cache / part
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    with pytest.raises(CacheError, match=str(folder)):
        attnc.compile(SPEC.format(term="0.75 * j"))(X, X, X)
    folder.chmod(0o700)
    assert bool((op(X, X, X) == 1).all())


def test_a_cache_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("ATTNC_CACHE", str(file))
    with pytest.raises(CacheError, match="Set ATTNC_CACHE"):
        attnc.compile(SPEC.format(term="1.5 * j"))


@pytest.mark.parametrize("number", ("ENOSPC", "EROFS", "EACCES"))
def test_a_disk_that_takes_nothing(
    number: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    code = getattr(errno, number)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    folder = cache_folder("modules")
    monkeypatch.setattr("attnc.cache.os.replace", full)
    with pytest.raises(CacheError, match=os.strerror(code)):
        write_once(folder / "a.py", "x = 1\n")
    assert list(folder.iterdir()) == []
    with pytest.raises(AttncError, match="the file cannot be written"):
        write_file(cache / "named.py", "x = 1\n")


@pytest.mark.parametrize("wanted", ("/nonexistent/c++", ""))
def test_no_compiler(
    wanted: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    op = attnc.compile(SPEC.format(term="0.25 * j"))
    monkeypatch.setenv("CXX", wanted)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilerNotFound, match='backend="eager" or backend="numpy"') as caught:
        op(X.double(), X.double(), X.double())
    assert (wanted or "g++") in str(caught.value)
    for backend in ("eager", "numpy"):
        other = attnc.compile(SPEC.format(term="0.25 * j"), backend=backend)
        assert bool((other(X, X, X) == 1).all())


def test_a_broken_module_is_not_kept(cache: Path) -> None:
    from attnc.compiler import load_module

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            load_module("1 / 0\n", "broken")
    assert not [name for name in sys.modules if name.startswith("attnc_broken")]


def test_system_headers_are_read_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the third library of the same flags on; what cannot be taken is read again."""
    monkeypatch.setenv("CXX", "g++")
    shown = 'extern "C" __attribute__((visibility("default")))'
    source = f"#include <cstdint>\n{shown} int64_t number() {{ return ATTNC_NUMBER; }}\n"
    taken = []
    for number in range(3):
        library = cpu_build.build_library(source, {"ATTNC_NUMBER": str(number)}, 0)
        assert ctypes.CDLL(str(library)).number() == number
        taken.append(len(list((cache / "cpu").glob("*.gch"))))
    assert taken == [0, 1, 1]
    headers = cpu_build.SystemHeaders(source, "g++", ["-O1"], 0, cache / "cpu")
    assert headers.flags() == ()
    next((cache / "cpu").glob("*.gch")).write_bytes(b"of another compiler")
    assert cpu_build.build_library(source, {"ATTNC_NUMBER": "3"}, 0).exists()
