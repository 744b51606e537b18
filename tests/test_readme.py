"""README.md is run: its tour from top to bottom in an empty folder, and its stages printed anew.

What a block is stands in its fence, and in a comment before it where that is not enough:

    ```python                          run; all share one namespace
    <!-- prints -->                    what the Python block before printed
    <!-- raises -->                    the Python block before ends with this error
    ```console                         lines after `$ ` are run, what follows is compared
    <!-- fails -->                     each command of the console block exits with 1
    <!-- file NAME -->                 saved as NAME
    <!-- stage NAME -->                all that `attnc show --emit NAME` prints of EXAMPLE
    <!-- stage NAME: "A" .. "B" -->    its lines from one with A to one with B; more after `;`

Outside stages `...` stands for any text. Every other fence is text for people.

    pytest tests/test_readme.py --update-golden      prints the stages into README.md anew
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
EXAMPLE = "examples/window/sink_window.attn"
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
CUT = re.compile(r'"(?P<first>[^"]+)" \.\. "(?P<last>[^"]+)"')
LINK = re.compile(r"\]\((?!https?:|#)(?P<path>[^)#]+)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its mark, its language, its text, and where the text stands in the README."""

    mark: str
    language: str
    text: str
    start: int
    line: int

    def __str__(self) -> str:
        return f"README.md:{self.line}"


def read_blocks(text: str) -> list[Block]:
    return [
        Block(
            match["mark"] or "",
            match["language"],
            match["text"],
            match.start("text"),
            text.count("\n", 0, match.start("text")) + 1,
        )
        for match in BLOCK.finditer(text)
    ]


def same(expected: str, found: str) -> bool:
    """Equal but for spaces at the end of lines; `...` in what is expected matches anything."""
    plain = ["\n".join(line.rstrip() for line in x.strip().splitlines()) for x in (expected, found)]
    return doctest.OutputChecker().check_output(f"{plain[0]}\n", f"{plain[1]}\n", doctest.ELLIPSIS)


def compare(block: Block, expected: str, found: str) -> None:
    assert same(expected, found), f"{block} says\n{expected}\nbut now it is\n{found}"


# --- The tour ------------------------------------------------------------------------------------


class Tour:
    """Runs blocks one after another in a folder, keeping Python's names and what was printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "readme"}
        self.printed = ""
        self.raised: Exception | None = None

    def run(self, block: Block) -> None:
        if block.mark.startswith("file "):
            (self.folder / block.mark.removeprefix("file ")).write_text(block.text)
        elif block.mark == "prints":
            compare(block, block.text, self.printed)
        elif block.mark == "raises":
            assert self.raised is not None, f"{block}: the code before raises nothing"
            kind = type(self.raised)
            compare(block, block.text, f"{kind.__module__}.{kind.__name__}: {self.raised}")
            self.raised = None
        elif block.language == "python":
            self.run_python(block)
        elif block.language == "console":
            self.run_console(block)

    def run_python(self, block: Block) -> None:
        """The code stands in a file of its own: errors and @attnc.jit look at its lines."""
        assert self.raised is None, f"{block}: the code before raised {self.raised!r}"
        path = self.folder / f"readme_line_{block.line}.py"
        path.write_text(block.text)
        screen = io.StringIO()
        with contextlib.redirect_stdout(screen):
            try:
                exec(compile(block.text, str(path), "exec"), self.names)
            except Exception as error:
                self.raised = error
        self.printed = screen.getvalue()

    def run_console(self, block: Block) -> None:
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            done = subprocess.run(
                command,
                shell=True,
                cwd=self.folder,
                env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=300,
            )
            wanted = 1 if block.mark == "fails" else 0
            assert done.returncode == wanted, f"{block}: {command}: {done.stdout}"
            compare(block, expected, done.stdout)


def test_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    tour = Tour(tmp_path)
    blocks = [b for b in read_blocks(README.read_text()) if not b.mark.startswith("stage ")]
    assert any(b.language == "python" for b in blocks), "no tour in README.md"
    for block in blocks:
        tour.run(block)
    assert tour.raised is None, repr(tour.raised)


# --- The stages ----------------------------------------------------------------------------------


def print_stage(stage: str) -> str:
    """What the command line prints of a stage of the example."""
    from attnc.cli import commands

    result = CliRunner().invoke(commands, ["show", "--emit", stage, str(ROOT / EXAMPLE)])
    assert result.exit_code == 0, result.output
    return "\n".join(line.rstrip() for line in result.stdout.strip().splitlines()) + "\n"


def cut(text: str, first: str, last: str) -> str:
    """The lines of `text` from the first with `first` to the next with `last`, moved left."""
    lines = text.splitlines()
    begin = next((n for n, line in enumerate(lines) if first in line), None)
    assert begin is not None, f"no line with {first!r} in what is printed now"
    end = next((n for n in range(begin, len(lines)) if last in lines[n]), None)
    assert end is not None, f"no line with {last!r} after {first!r} in what is printed now"
    return textwrap.dedent("\n".join(lines[begin : end + 1]) + "\n")


def expected_text(mark: str) -> str:
    """What the block of a `stage` mark should hold."""
    stage, _, cuts = mark.removeprefix("stage ").partition(":")
    text = print_stage(stage)
    pieces = [cut(text, found["first"], found["last"]) for found in CUT.finditer(cuts)]
    assert bool(pieces) == bool(cuts), f"no cut can be read in {mark!r}"
    return "...\n".join(pieces) if pieces else text


def test_the_stages_are_those_of_now(request: pytest.FixtureRequest) -> None:
    text = README.read_text()
    blocks = [b for b in read_blocks(text) if b.mark.startswith("stage ")]
    assert {b.mark.split()[1].rstrip(":") for b in blocks} >= {
        "syntax", "spec", "graph", "schedule", "cpu", "triton",
    }  # fmt: skip
    if not request.config.option.update_golden:
        for block in blocks:
            found = expected_text(block.mark)
            assert block.text == found, f"{block} is stale; --update-golden prints:\n{found}"
        return
    for block in reversed(blocks):
        end = block.start + len(block.text)
        text = text[: block.start] + expected_text(block.mark) + text[end:]
    README.write_text(text)


def test_the_example_shown_is_the_file() -> None:
    """The spec in the README's first screen is the example that its stages are printed of."""
    assert (ROOT / EXAMPLE).read_text() in [b.text for b in read_blocks(README.read_text())]


# --- Manuals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["README.md", "backends/README.md", "templates/README.md", "tests/README.md"]
)
def test_links_and_files_exist(name: str) -> None:
    """Every relative link, and every path in backquotes that names a folder of the repository."""
    path = ROOT / name
    text = BLOCK.sub("", path.read_text())
    for found in LINK.finditer(text):
        assert (path.parent / found["path"]).exists(), f"{name}: {found['path']}"
    folders = "attnc|backends|templates|grammar|examples|tests"
    for mentioned in re.findall(rf"`((?:{folders})/[\w./-]*\w/?)`", text):
        assert (ROOT / mentioned).exists(), f"{name}: {mentioned}"


def test_every_test_file_is_in_the_manual() -> None:
    manual = (ROOT / "tests" / "README.md").read_text()
    missing = [p.name for p in (ROOT / "tests").glob("test_*.py") if f"`{p.name}`" not in manual]
    assert not missing, f"tests/README.md does not speak of {', '.join(missing)}"
