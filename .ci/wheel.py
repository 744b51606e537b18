"""Build the wheel, install it alone in an environment of its own, and look at it from elsewhere.

What an editable install hides shows here: a subpackage or a shipped file missing from the wheel,
types that mypy cannot follow, an import that leaks. The dependencies are borrowed from the
environment that runs this file by one line in a .pth file, so that torch is not copied.

    .venv/bin/python .ci/wheel.py [--keep]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Runs inside the environment: every module of the wheel imports (modules that need a GPU's or
# another platform's library say so in LATER), every shipped file opens, nothing leaks.
SMOKE = """
import importlib, importlib.util, pkgutil, sys
from importlib.resources import files

import attnc

assert "site-packages" in attnc.__file__, attnc.__file__
for leaked in ("backends", "grammar", "templates"):
    assert importlib.util.find_spec(leaked) is None, f"{leaked} is installed as a global package"
names = [module.name for module in pkgutil.walk_packages(attnc.__path__, "attnc.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
shipped = [f for f in files("attnc.grammar").iterdir() if f.name.endswith(".lark")]
assert shipped and all(f.read_text() for f in shipped), "the grammar is not in the wheel"
assert any(files("attnc.grammar").joinpath("std").iterdir()), "the library is not in the wheel"
from attnc.zoo import read_entries
assert len(read_entries()) > 100, "the zoo is not in the wheel"
print(f"wheel: {len(names)} modules import")
"""


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command in a folder; a failure ends this program with its code."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=environment, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def build_wheel(folder: Path) -> Path:
    """Build the tree's wheel into a folder. Stale build output would end up in it: removed."""
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    return next(folder.glob("attnc-*.whl"))


def install(wheel: Path, folder: Path) -> Path:
    """Make an environment that holds the wheel and borrows the rest; its interpreter comes out."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq", "--python", python)
    run(*pip, "install", "--no-deps", wheel, cwd=folder)
    site = next(folder.glob("lib/python*/site-packages"))
    # A plain path: the .pth files inside the borrowed folder (the editable attnc) are not read.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--keep", action="store_true", help="leave the environment behind")
    keep = options.parse_args().keep
    folder = Path(tempfile.mkdtemp(prefix="attnc-wheel-"))
    try:
        print("wheel: building", flush=True)
        python = install(build_wheel(folder), folder / "venv")
        run(python, "-c", SMOKE, cwd=folder)
        run(folder / "venv" / "bin" / "attnc", "--help", cwd=folder)
        print("wheel: mypy --strict", flush=True)
        settings = ("--config-file", ROOT / "pyproject.toml", "--cache-dir", ROOT / ".mypy_cache")
        mypy = (sys.executable, "-m", "mypy", "--strict", *settings)
        run(*mypy, "--python-executable", python, "-p", "attnc", cwd=folder)
    finally:
        if keep:
            print(f"wheel: left in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
