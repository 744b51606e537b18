"""What is shipped and what an import costs."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
TOOL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {name: ROOT / folder for name, folder in TOOL["package-dir"].items()}

# What costs more than a tenth of a second to import, or should not be needed to say `attnc --help`.
HEAVY = ("torch", "triton", "sympy", "networkx", "jinja2", "lark", "numpy", "matplotlib", "rich")


def packages_of_the_tree() -> set[str]:
    """The installed names of all folders with Python in them."""
    return {
        ".".join([name, *path.parent.relative_to(folder).parts])
        for name, folder in FOLDERS.items()
        for path in folder.rglob("*.py")
    }


def shipped(name: str) -> set[Path]:
    """The files of the tree that the patterns of package-data name for one package."""
    folder = FOLDERS[name]
    return {f for pattern in TOOL["package-data"][name] for f in folder.glob(pattern)}


def last_line(program: str) -> str:
    """Run a program in a fresh interpreter; its last line comes out."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_every_package_is_listed() -> None:
    assert sorted(packages_of_the_tree()) == sorted(TOOL["packages"])


@pytest.mark.parametrize("name", ["attnc.grammar", "attnc.templates"])
def test_every_data_file_is_shipped(name: str) -> None:
    """A grammar or a template outside the patterns would be missing from the wheel alone."""
    left_out = {".py", ".pyc", ".md"}
    there = {f for f in FOLDERS[name].rglob("*") if f.is_file() and f.suffix not in left_out}
    assert there == {f for f in shipped(name) if f.suffix not in left_out}


def test_import_loads_nothing_heavy() -> None:
    program = f"""
import sys, attnc
print([name for name in {HEAVY} if name in sys.modules])
"""
    assert last_line(program) == "[]"


def seconds_at_best(program: str, bar: float) -> float:
    """What a program prints in the best of ten runs, or in the first that is under a bar: others on
    the machine can only make it slower."""
    best = math.inf
    for _ in range(10):
        best = min(best, float(last_line(program)))
        if best < bar:
            break
    return best


def test_import_is_light() -> None:
    """Under 0.3 s beyond torch's own import, the compiler's driver included. In seconds of the
    processor: others share the machine."""
    program = """
import time, torch
start = time.process_time()
import attnc
attnc.compile
print(time.process_time() - start)
"""
    assert seconds_at_best(program, 0.3) < 0.3


def test_check_is_light(tmp_path: Path) -> None:
    """`attnc check` under 0.5 s from the interpreter's start, and without torch or NumPy."""
    spec = tmp_path / "causal.attn"
    spec.write_text(
        "attention causal(q, k, v):\n"
        "    mask: j <= i\n"
        "    score: dot(q[i], k[j]) * scale\n"
        "    normalize: softmax(j: score)\n"
    )
    program = f"""
import sys, time
from attnc.cli import commands
try:
    commands.main(["check", {str(spec)!r}], standalone_mode=False)
except SystemExit as done:
    assert not done.code, done.code
assert not {{"torch", "numpy"}} & set(sys.modules)
print(time.process_time())
"""
    assert seconds_at_best(program, 0.5) < 0.5
