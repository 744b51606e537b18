"""The command line: what each command prints, and its exit code."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from attnc.cli import commands
from attnc.cli.show import MEMBER_STAGES, MEMBERS, STAGES
from attnc.errors import AttncError, InternalError

ROOT = Path(__file__).resolve().parent.parent
SPEC = """\
attention windowed(q, k, v):
    param window: int = 5
    static sinks: int = 1
    mask: j <= i and (i - j < window or j < sinks)
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
"""
WRONG = SPEC.replace("i - j < window", "i - j < winow")
ESCAPE = "\x1b["


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "windowed.attn"
    path.write_text(SPEC)
    return path


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    path = tmp_path / "wrong.attn"
    path.write_text(WRONG)
    return path


def attnc(*args: object, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command; its outputs are pipes."""
    return subprocess.run(
        [sys.executable, "-c", "from attnc.cli import main; main()", *map(str, args)],
        input=text, capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_check(spec: Path, wrong: Path) -> None:
    good = attnc("check", spec)
    assert good.returncode == 0 and "windowed is well formed" in good.stdout
    assert attnc("check", "-q", spec, "--set", "sinks=2").stdout == ""
    bad = attnc("check", spec, wrong)
    assert bad.returncode == 1
    assert "Did you mean `window`" in bad.stderr and f"{wrong}:4:" in bad.stderr
    assert "Traceback" not in bad.stderr and ESCAPE not in bad.stderr
    piped = attnc("check", "-", text=WRONG)
    assert piped.returncode == 1 and "<stdin>:4:" in piped.stderr


def test_wrong_commands_exit_with_2(spec: Path) -> None:
    for args, words in (
        (("chek", spec), "Did you mean `check`?"),
        (("check", "nowhere.attn"), "nowhere.attn"),
        (("check",), "PATHS"),
        (("show", spec, "--emit", "grap"), "graph"),
        (("show", spec, "--set", "window"), "NAME=VALUE"),
        (("show", spec, "--set", "window=five"), "'five' is not a number"),
        (("verify", spec, "--backend", "gpu"), "gpu"),
        (("explain", spec), "attnc show"),
        (("show", spec, "--mask", "--rows", "-5"), "--rows"),
        (("show", spec, "--mask", "--tile", "0"), "--tile"),
        (("show", spec, "--mask", "-o", "mask.txt"), ".png"),
        (("show", spec, "--graph", "-o", spec.parent), ".png"),
        (("verify", spec, "--cases", "-1"), "--cases"),
        (("verify", spec, "--seed", "-1"), "--seed"),
        (("bench", "--only", "nothing", "--quick", "--dtype", "float32"), "no case"),
    ):
        done = attnc(*args)
        assert done.returncode == 2, (args, done.stderr)
        assert words in done.stderr and "Traceback" not in done.stderr


def test_help() -> None:
    done = attnc("--help")
    assert done.returncode == 0 and "Exit codes" in done.stdout
    for name in ("check", "compile", "verify", "show", "bench", "tune", "fmt"):
        assert name in done.stdout


def test_numbers_that_the_spec_lacks(spec: Path) -> None:
    done = attnc("show", spec, "--mask", "--set", "windw=3")
    assert done.returncode == 1 and "Did you mean `window`?" in done.stderr
    done = attnc("compile", spec, "--set", "window=3")
    assert done.returncode == 1 and "`window` is a param" in done.stderr
    done = attnc("check", spec, "--set", "sink=3")
    assert done.returncode == 1 and "sinks" in done.stderr and "Traceback" not in done.stderr


def test_fmt(tmp_path: Path) -> None:
    path = tmp_path / "loose.attn"
    path.write_text(SPEC.replace("i - j < window", "i-j<window"))
    path.chmod(0o644)
    assert attnc("fmt", "--check", path).returncode == 1
    assert "i-j" in path.read_text()
    assert attnc("fmt", path).returncode == 0
    assert path.read_text() == SPEC
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert attnc("fmt", "--check", path).returncode == 0
    assert attnc("fmt", "-", text=SPEC).stdout == SPEC


def test_compile(spec: Path, wrong: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.py"
    done = attnc("compile", spec, "-o", target, "--set", "sinks=2")
    assert done.returncode == 0 and str(target) in done.stdout
    compile(target.read_text(), str(target), "exec")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask
    assert attnc("compile", wrong, "-o", tmp_path / "no.py").returncode == 1
    assert not (tmp_path / "no.py").exists()
    nowhere = attnc("compile", spec, "-o", tmp_path / "none" / "out.py")
    assert nowhere.returncode == 1 and "the file cannot be written" in nowhere.stderr


@pytest.mark.parametrize(
    ("stage", "words"),
    (
        ("syntax", "windowed"), ("spec", "window"), ("graph", "rows i"), ("schedule", "for"),
        ("source", "KernelOperator"), ("cpu", "attnc_run"), ("triton", "helpers of every kernel"),
        ("eager", "def eager"), ("explain", "windowed"),
    ),
)  # fmt: skip
def test_show_prints_each_stage(stage: str, words: str, spec: Path) -> None:
    done = attnc("show", spec, "--emit", stage)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout and ESCAPE not in done.stdout


RECURRENT = """
attention decayed(q, k, v) for t:
    input g: real[b, h, t]
    state S: real[d, e] = 0
    update:
        S = sigmoid(g[t]) * S + outer(k[t], v[t])
    read: q[t] @ S
"""
STAGED = """
pipeline twice(q, k, v) for i:
    attention first for i over j:
        score: dot(q[i], k[j]) * scale
        normalize: softmax(j: score)
    attention second for i over j:
        mask: j <= i
        score: dot(first[i], v[j])
        normalize: softmax(j: score)
    read: second[i]
"""
EMITTING = SPEC + "    emit sharpness[i] = max(j: weight)\n"


@pytest.mark.parametrize("text", [SPEC, EMITTING, RECURRENT, STAGED])
def test_show_of_every_member(text: str, tmp_path: Path) -> None:
    """Each stage of each member is printed, or refused in words; of a pipeline for each block."""
    path = tmp_path / "shown.attn"
    path.write_text(text)
    for stage, member in itertools.product(MEMBER_STAGES, MEMBERS):
        done = CliRunner().invoke(commands, ["show", str(path), "--emit", stage, "--of", member])
        assert done.exception is None or isinstance(done.exception, AttncError), (stage, member)
        assert not isinstance(done.exception, InternalError), (stage, member)
        if done.exception is None and text is STAGED:
            assert "stage first" in done.output and "stage second" in done.output
    for stage in STAGES:
        if stage not in MEMBER_STAGES:
            done = CliRunner().invoke(
                commands, ["show", str(path), "--emit", stage, "--of", "tangent"]
            )
            assert done.exit_code == 2
            assert "--emit graph, schedule, cpu, triton" in " ".join(done.output.split())


def test_show_says_what_a_member_lacks(spec: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.attn"
    path.write_text(STAGED)
    staged = attnc("show", path, "--of", "merge")
    assert staged.returncode == 1 and "a pipeline: its stages need all keys" in staged.stderr
    path.write_text(RECURRENT)
    assert "`return_state`" in attnc("show", path, "--of", "finish").stderr
    assert (
        "Ask for --emit schedule" in attnc("show", path, "--emit", "graph", "--of", "second").stderr
    )
    assert attnc("show", spec, "--mask", "--of", "backward").returncode == 2


def test_show_draws(spec: Path, tmp_path: Path) -> None:
    mask = attnc("show", spec, "--mask", "--rows", "32", "--set", "window=3", "--set", "sinks=2")
    assert mask.returncode == 0, mask.stderr
    assert len(mask.stdout.splitlines()) > 4 and ESCAPE not in mask.stdout
    for name, args in (("mask.png", ("--mask",)), ("graph.svg", ("--graph",))):
        done = attnc("show", spec, *args, "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
        head = (tmp_path / name).read_bytes()[:300]
        assert head.startswith(b"\x89PNG") or b"<?xml" in head or b"<svg" in head
        assert (tmp_path / name).stat().st_size > 500


def test_verify(spec: Path) -> None:
    done = attnc("verify", spec, "--cases", "2", "--dtype", "float32", "--backend", "eager")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "float32" in done.stdout and "ok" in done.stdout
    assert ESCAPE not in done.stdout and "\r" not in done.stdout


# What a tap sends to another row is a vector of both, and which rows send to one is not known.
NO_GRADIENT = """
attention leaps(x) for i over u:
    input x: real[b, i, c], taps: real[u, c], W: real[c, a in c]
    read: sum(u: taps[u] * (x[i * u] else 0)) * (W @ x[i])
"""


@pytest.mark.usefixtures("quick_build")
def test_verify_gradients(spec: Path, tmp_path: Path) -> None:
    """On the CPU they are compared; what has none says which feature is missing."""
    options = ("--cases", "1", "--gradients", "1", "--dtype", "float64", "--backend", "cpu")
    options = (*options, "--seed", "6")  # whose first shape is small
    done = attnc("verify", spec, *options)
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.count("float64") == 2 and "gradients" in done.stdout
    refused = tmp_path / "leaps.attn"
    refused.write_text(NO_GRADIENT)
    done = attnc("verify", refused, *options)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "refused" in done.stdout and "a vector for each pair" in done.stdout


def test_outputs_that_cannot_be_written(spec: Path, tmp_path: Path) -> None:
    for option in ("--mask", "--graph"):
        done = attnc("show", spec, option, "-o", tmp_path / "nowhere" / "a.png")
        assert done.returncode == 1 and "nowhere" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_fmt_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "typo.attn"
    path.write_text(SPEC.replace("score:", "scroe:"))
    assert f"{path}:5:5" in attnc("fmt", path).stderr


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.attn"
    path.write_bytes(b"\xff\xfe\x00")
    done = attnc("check", path)
    assert done.returncode == 1 and "not UTF-8" in done.stderr
    path.write_bytes(b"attention a\x00b(q, k, v):\n    mask: j <= i\n")
    done = attnc("check", path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
