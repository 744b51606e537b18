"""Wrong specs: every file of tests/bad fails as tests/bad/expected.log says.

The log is the manual of the messages: each diagnostic of the catalogue occurs in it. After a change
of the checker or of a message, write it anew and read the difference:

    pytest tests/test_bad_specs.py --update-golden      (or ATTNC_UPDATE=1)

A file's first comment may say how it is checked: `# operator: name`, `# statics: size=4`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import attnc.check.messages  # noqa: F401  (enters its messages in the catalogue)
from attnc.check import check_spec
from attnc.errors import CATALOGUE, Diagnostic, SpecError
from attnc.mistakes import load_messages
from attnc.parser import MAX_CHARACTERS, parse
from attnc.source import Source

BAD = Path(__file__).resolve().parent / "bad"
LOG = BAD / "expected.log"
FILES = sorted(BAD.glob("*.attn"))


def generated() -> dict[str, str]:
    """Texts too large to keep as files."""
    return {
        "generated/file-too-large.attn": "# " + "x" * MAX_CHARACTERS,
        "generated/nested-too-deep.attn": f"def f(x) = {'(' * 1000}x{')' * 1000}\n",
    }


def options(text: str) -> tuple[str | None, dict[str, int | float | bool]]:
    """What the first comment of a file asks for."""
    operator: str | None = None
    statics: dict[str, int | float | bool] = {}
    first = text.split("\n", 1)[0]
    if first.startswith("# operator: "):
        operator = first.removeprefix("# operator: ").strip()
    if first.startswith("# statics: "):
        for pair in first.removeprefix("# statics: ").split(","):
            name, value = pair.strip().split("=")
            statics[name] = float(value) if "." in value else int(value)
    return operator, statics


def mistakes(name: str, text: str) -> tuple[Diagnostic, ...]:
    """What is wrong with a text."""
    source = Source(text, name)
    operator, statics = options(text)
    try:
        spec = check_spec(parse(source), source, operator, statics, search=(BAD,))
    except SpecError as error:
        return error.diagnostics
    return spec.warnings


def texts() -> dict[str, str]:
    found = {f"bad/{path.name}": path.read_text(encoding="utf-8") for path in FILES}
    return found | generated()


@pytest.fixture(scope="module")
def found() -> dict[str, tuple[Diagnostic, ...]]:
    return {name: mistakes(name, text) for name, text in texts().items()}


def log_of(found: dict[str, tuple[Diagnostic, ...]]) -> str:
    parts = []
    for name, diagnostics in found.items():
        said = "\n".join(str(one).replace(str(BAD), "bad") for one in diagnostics)
        parts.append(f"=== {name}\n{said}\n")
    return "\n".join(parts)


def test_the_log(found: dict[str, tuple[Diagnostic, ...]], request: pytest.FixtureRequest) -> None:
    text = log_of(found)
    if request.config.option.update_golden or os.environ.get("ATTNC_UPDATE"):
        LOG.write_text(text, encoding="utf-8")
    expected = LOG.read_text(encoding="utf-8") if LOG.exists() else ""
    assert text == expected, (
        "the messages changed: run with --update-golden and read the difference"
    )


def test_every_file_is_wrong(found: dict[str, tuple[Diagnostic, ...]]) -> None:
    fine = [name for name, said in found.items() if not any(d.severity == "error" for d in said)]
    warned = [name for name in fine if found[name]]
    assert fine == warned, f"nothing is wrong with {set(fine) - set(warned)}"


def test_every_message_occurs(found: dict[str, tuple[Diagnostic, ...]]) -> None:
    load_messages()
    met = {diagnostic.code for said in found.values() for diagnostic in said}
    assert sorted(set(CATALOGUE) - met) == []


def test_there_are_many() -> None:
    assert len(FILES) >= 60


@pytest.mark.parametrize(
    "code", ["unknown-name", "free-index", "clause-vector", "axes-do-not-meet", "mask-of-itself"]
)
def test_messages_have_hints(code: str, found: dict[str, tuple[Diagnostic, ...]]) -> None:
    said = [d for each in found.values() for d in each if d.code == code]
    assert said
    assert all(d.hint for d in said)


def test_hint_names_the_declaration(found: dict[str, tuple[Diagnostic, ...]]) -> None:
    hints = [d.hint for d in found["bad/unknown-name.attn"]]
    assert "Did you mean `window` (param, line 2)?" in hints
