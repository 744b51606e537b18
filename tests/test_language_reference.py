"""Every example of grammar/README.md checks, and what it says of errors, the library and random
numbers is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attnc.errors import SpecError
from attnc.front import read_spec
from attnc.parser import parse
from attnc.philox import philox, uniform
from attnc.resources import library_names, read_library
from attnc.source import Source

README = Path(__file__).resolve().parent.parent / "grammar" / "README.md"
TEXT = README.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```attn\n(.*?)```", TEXT, re.DOTALL)

# Where the errors of the table are made: all names that its lines use but the misspelt ones.
FRAME = """attention f(q, k, v):
    param window: int
    input flags: int[b, j], beta: real[b, h, i]
    count[i] = sum(j: 1)
"""
CLAUSES = {
    "mask": "mask: j <= i",
    "score": "score: dot(q[i], k[j]) * scale",
    "normalize": "normalize: softmax(j: score)",
    "read": "read: sum(j: weight * v[j])",
}


def section(title: str) -> str:
    return TEXT.split(f". {title}\n", 1)[1].split("\n## ", 1)[0]


def table(text: str, head: str) -> list[list[str]]:
    """The cells of the rows of the table that begins with `head`."""
    body = text.split(head, 1)[1].split("\n\n", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in body.strip().splitlines()]
    return [row for row in rows if not set("".join(row)) <= set("-| ")]


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split("(")[0].split()[-1])
def test_examples_check_without_warnings(text: str) -> None:
    assert not read_spec(Source(text, "grammar/README.md")).warnings


def test_there_is_an_example_of_every_statement() -> None:
    words = "axis input param static state mask score normalize read update emit solve repeat"
    text = "".join(EXAMPLES)
    for word in [*words.split(), "attention", "pipeline", "def", "from", "return", "else"]:
        assert re.search(rf"\b{word}\b", text), word


ERRORS = table(section("Errors"), "| if you write | it says |")


@pytest.mark.parametrize("line, says", ERRORS, ids=[row[0] for row in ERRORS])
def test_errors_say_what_the_table_says(line: str, says: str) -> None:
    line = line.strip("`")
    clauses = {**CLAUSES, line.split(":")[0]: line}
    text = FRAME + "".join(f"    {clause}\n" for clause in clauses.values())
    try:
        found = read_spec(Source(text, "f.attn")).warnings
    except SpecError as error:
        found = error.diagnostics
    assert says.strip() in [f"{one.message} {one.hint}".strip() for one in found]


def test_philox_words_are_those_of_the_table() -> None:
    for row in table(section("Random numbers"), "| counter | key | words |"):
        counter, key, words = ([int(w, 16) for w in cell.strip("`").split()] for cell in row)
        assert [int(word) for word in philox(tuple(counter), tuple(key))] == words


def test_uniform_numbers_are_those_of_the_table() -> None:
    for row in table(section("Random numbers"), "| seed | ordinal | b | h | i | j | number |"):
        *at, expected = row
        assert float(uniform(*map(int, at))) == float(expected)


def test_every_def_of_the_library_is_named() -> None:
    said = section("The library")
    for name in library_names():
        for each in parse(Source(read_library(name), name)).defs:
            assert re.search(rf"\b{each.name.name}\b", said), f"{name}: {each.name.name}"


def test_sections_are_those_of_the_list() -> None:
    listed = re.findall(r"^(?:.*?)(\d+)\. \[([^\]]+)\]\(#", TEXT, re.MULTILINE)
    heads = re.findall(r"^## (\d+)\. (.+)$", TEXT, re.MULTILINE)
    assert [number for number, _ in heads] == [str(n + 1) for n in range(len(heads))]
    assert {title for _, title in listed} <= {title for _, title in heads}
