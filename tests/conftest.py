"""What all tests share: one seed for a run, golden files, and one thread a test process.

pytest --seed 7            the random choices of an earlier run, whose header printed its seed
pytest --update-golden     write the golden files anew; git diff shows what changed
"""

from __future__ import annotations

import difflib
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).resolve().parent / "golden"

# Before anything imports triton (torch's own compiler does): kernels are interpreted in tests. What
# compiles them ahead of time runs in a process of its own.
os.environ["TRITON_INTERPRET"] = "1"

# Where flash-linear-attention is found, transformers takes its GPU kernels, on a CPU too: its torch
# forms are what tests compare with. (test_scan_fla.py loads single files of that package.)
sys.modules["fla"] = None  # type: ignore[assignment]

# Before torch or OpenMP is loaded. Test processes share the cores among themselves.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ[name] = "1"


# Most tests ask what a kernel computes, not how fast: theirs are built without optimisation, in a
# quarter of the time. Those of `shipped_build` hold the kernels to account as users get them.
os.environ.setdefault("ATTNC_CXXFLAGS", "-O0")
SHIPPED_SHARE = 1 / 4  # of the tests of `drawn_build`


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="of all random choices; drawn when not given")
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")


def pytest_configure(config: pytest.Config) -> None:
    # xdist hands the controller's options to its workers, so all of them get this seed.
    if config.option.seed is None:
        config.option.seed = random.SystemRandom().randrange(2**31)
    configure_hypothesis()


def configure_hypothesis() -> None:
    """Hypothesis prints how to repeat a failure; CI draws the same examples in every run."""
    try:
        from hypothesis import settings
    except ModuleNotFoundError:  # the suite's other tests do not need it
        return
    settings.register_profile("default", deadline=None, print_blob=True)
    settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.option.seed} (repeat with --seed {config.option.seed})"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # The header is not shown with -q.
    terminalreporter.write_line(f"seed: {terminalreporter.config.option.seed}")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of the run, other for each test, the same wherever and in which order it runs."""
    return random.Random(f"{request.config.option.seed} {request.node.nodeid}").randrange(2**31)


@pytest.fixture
def rng(seed: int) -> random.Random:
    """Random choices of one test."""
    return random.Random(seed)


@pytest.fixture
def shipped_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are compiled as they are for users."""
    monkeypatch.delenv("ATTNC_CXXFLAGS")


@pytest.fixture
def drawn_build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tests of a matrix some, as the run's seed draws, compile as for users; the others in a
    quarter of the time. (Rounds of torture all compile as for users.)"""
    drawn = random.Random(f"build {request.config.option.seed} {request.node.nodeid}")
    if drawn.random() < SHIPPED_SHARE:
        monkeypatch.delenv("ATTNC_CXXFLAGS")


@pytest.fixture
def quick_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are compiled without optimisation even in a run with ATTNC_CXXFLAGS of its own: for
    many small kernels that are called a few times on a few rows."""
    monkeypatch.setenv("ATTNC_CXXFLAGS", "-O0")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with a file of tests/golden: golden("causal/graph.txt", text)."""
    update = request.config.option.update_golden

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return
        again = f"{Path(sys.executable).name} -m pytest --update-golden '{request.node.nodeid}'"
        if not path.exists():
            pytest.fail(f"no golden file {name}; make it with {again}", pytrace=False)
        expected = path.read_text()
        if text == expected:
            return
        lines = difflib.unified_diff(
            expected.splitlines(), text.splitlines(), f"golden/{name}", "now", lineterm=""
        )
        pytest.fail("\n".join([*lines, f"if that is meant: {again}"]), pytrace=False)

    return compare
