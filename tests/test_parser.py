"""The parser: trees with their places, every message of syntax, limits, and hostile texts."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnc import syntax
from attnc.errors import CATALOGUE, SpecError
from attnc.layout import TOKEN
from attnc.mistakes import load_messages
from attnc.parser import MAX_CHARACTERS, parse
from attnc.resources import library_names, read_library
from attnc.source import Source

SPECS = sorted((Path(__file__).parent / "language").glob("*.attn"))
EXAMPLES = [
    (code, example)
    for code, words in load_messages().mistakes.items()
    for example in words.examples
]


def tree(text: str) -> syntax.File:
    return parse(Source(text, "spec.attn"))


def expression(text: str) -> syntax.Expression:
    """The tree of one expression."""
    return tree(f"def f(x) = {text}\n").defs[0].result


def codes(text: str) -> list[str]:
    """The codes of the mistakes in a text."""
    with pytest.raises(SpecError) as caught:
        tree(text)
    return [one.code for one in caught.value.diagnostics]


# --- Trees ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_specs_parse(path):
    file = parse(Source(path.read_text(encoding="utf-8"), path.name))
    assert file.operators[-1].name.name == path.stem


@pytest.mark.parametrize("name", library_names())
def test_library_parses(name):
    tree = parse(Source(read_library(name), name))
    assert tree.defs or tree.operators


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_span_lies_inside_its_parent(path):
    file = parse(Source(path.read_text(encoding="utf-8"), path.name))
    for node in syntax.walk(file):
        for child in syntax.children(node):
            assert node.span.start <= child.span.start < child.span.end <= node.span.end


def test_operator_and_its_parts():
    file = tree(
        "attention f(q, k) for r < 2, i in j over j, l in j | m:\n"
        "    input w, u: real[h, a in d] = 0, t: int\n"
        "    axis i, j = (y < 3, x < n)\n"
        "    axis g of h\n"
        "    mask[j]: j <= i < 3\n"
        "    score:\n"
        "        dot(q, k)\n"
        "    solve t in 0 .. 1: t == 2\n"
        "    update:\n"
        "        S = S + 1\n"
    )
    operator = file.operators[0]
    assert [name.name for name in operator.arguments] == ["q", "k"]
    assert [(one.name.name, one.form) for one in operator.rows] == [("r", "below"), ("i", "within")]
    assert [[one.name.name for one in source] for source in operator.keys] == [["j", "l"], ["m"]]
    declaration, product, coarse, mask, score, solve, update = operator.statements
    assert declaration.stage == "input" and declaration.groups[1].dims is None
    assert [one.form for one in declaration.groups[0].dims] == ["plain", "within"]
    assert product.form == "product" and [one.name.name for one in product.coordinates] == [
        "y",
        "x",
    ]
    assert coarse.form == "of" and coarse.bound.name == "h" and len(coarse.names) == 1
    assert mask.expr.ops == ("<=", "<") and mask.binders[0].name.name == "j"
    assert isinstance(score.expr, syntax.Call) and score.binders is None
    assert (solve.low.value, solve.high.value, solve.right.value) == (0, 1, 2)
    assert isinstance(update.statements[0], syntax.Define)


def test_unwritten_header_parts_are_none():
    operator = tree("attention f:\n    mask: j <= i\n").operators[0]
    assert operator.arguments is operator.rows is operator.keys is None


def test_def_with_indices_and_body():
    one = tree("def f(i, j: s, n = 2):\n    a[i] = s\n    return a\n").defs[0]
    assert [name.name for name in one.indices] == ["i", "j"]
    assert [parameter.name.name for parameter in one.parameters] == ["s", "n"]
    assert one.parameters[1].default.value == 2 and len(one.body) == 1


@pytest.mark.parametrize(
    ("text", "grouped"),
    [
        ("a - b - c", "(a - b) - c"),
        ("a + b * c", "a + (b * c)"),
        ("a ** b ** c", "a ** (b ** c)"),
        ("-a ** b", "-(a ** b)"),
        ("a // b % c", "(a // b) % c"),
        ("not a == b", "not (a == b)"),
        ("a or b and c", "a or (b and c)"),
        ("a else b else c", "a else (b else c)"),
        ("a or b else c", "(a or b) else c"),
        ("a .. b + c", "a .. (b + c)"),
    ],
)
def test_grouping(text, grouped):
    assert syntax.equal(expression(text), expression(grouped))
    assert not syntax.equal(expression(text), expression("a"))


def test_fold_binders():
    fold = expression("f(j, r < n, l in j | h of hk, c in 0 .. 3 if p: e, w = 2)")
    forms = [[one.form for one in source] for source in fold.sources]
    assert forms == [["plain", "below", "within"], ["of", "within"]]
    assert fold.condition.name == "p" and fold.args[1].name.name == "w"
    assert isinstance(fold.sources[1][1].bound, syntax.RangeExpr)


def test_clause_words_are_names_inside_expressions():
    found = expression("score + read[mask] * coarse.normalize + state(input)")
    names = {node.name for node in syntax.walk(found) if isinstance(node, syntax.Name)}
    assert {"score", "read", "mask", "normalize", "state", "input"} <= names


def test_keywords_end_at_word_borders():
    assert codes("def f(x) = x orb\n") == ["missing-operator"]
    assert expression("notx").name == "notx"


def test_numbers():
    assert expression("12").value == 12 and isinstance(expression("12").value, int)
    assert expression("1e-6").value == 1e-6 and expression("0.5").text == "0.5"


def test_parentheses_widen_the_span_only():
    found = expression("(a + b)")
    assert isinstance(found, syntax.Binary) and found.span.text == "(a + b)"
    assert isinstance(expression("(y, x)"), syntax.Tuple)


def test_line_breaks_inside_brackets_and_comments():
    found = expression("(a  # one\n      # two\n\n  + b)  # three")
    assert found.right.name == "b"


def test_printed_tree_names_nodes_and_places():
    assert "Binary + @1:12" in syntax.print_tree(tree("def f(x) = x + 1\n"))


# --- Messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "example"), EXAMPLES)
def test_every_example_gets_its_message_alone(code, example):
    assert codes(example) == [code]


def test_every_message_is_in_the_catalogue():
    assert set(load_messages().mistakes) <= set(CATALOGUE)


def test_all_mistakes_in_one_run():
    text = (
        "from grid import\n"
        "attention f(q):\n"
        "    mask: j = i\n"
        "    score: dot(q[i], k[j]\n"
        "    normalize: softmax(j: score))\n"
        "    update\n"
        "        S = S +\n"
        "    read: 1 && 2\n"
        "def g(x):\n"
        "    y = 2 x\n"
        "atention h(q):\n"
        "    maks: 1\n"
    )
    assert codes(text) == [
        "missing-name",
        "single-equal",
        "bracket-not-closed",
        "bracket-not-opened",
        "missing-colon",
        "missing-operand",
        "foreign-operator",
        "missing-operator",
        "unknown-statement",
        "unknown-statement",
    ]


@pytest.mark.parametrize(
    ("text", "line", "column", "carets"),
    [
        ("attention f(q):\n    mask: j = i\n", 2, 13, "            ^"),
        ("attention f(q):\n    maks: j <= i\n", 2, 5, "    ^^^^"),
        ("attention f(q):\n    mask: (j <= i\n    score: 1\n", 2, 11, "          ^"),
        ("def f(x) = x +  # more\n", 1, 14, "             ^"),
        ("def f(x) = x ** .5\n", 1, 17, "                ^^"),
    ],
)
def test_places_of_messages(text, line, column, carets):
    with pytest.raises(SpecError) as caught:
        tree(text)
    span = caught.value.diagnostics[0].span
    assert (span.line, span.column) == (line, column)
    assert span.excerpt().splitlines()[1] == "   | " + carets


def test_docstring_reports_the_python_file():
    text = "attention f(q):\n    mask: j = i\n"
    source = Source(text, "model.py", first_line=12, indent=8)
    with pytest.raises(SpecError) as caught:
        parse(source)
    assert str(caught.value).startswith("model.py:13:21: error[single-equal]:")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("attention f(q):\n    scroe: 1\n", "Did you mean `score`?"),
        ("attention f(q):\n    nomralize: 1\n", "Did you mean `normalize`?"),
        ("attention f(q):\n    parm n: int\n", "Did you mean `param`?"),
        ("pipline f(q):\n    read: 1\n", "Did you mean `pipeline`?"),
        ("attention f(q):\n    mask: j ≤ i\n", "Write `<=`."),
        ("def f(x) = \u03b1\n", "Spell it: `alpha`."),
        ("def f(x) = x ^ 2\n", "Write `**` for powers; exclusive or is `!=`."),
        ("def f(x) = 5.\n", "Write 5.0."),
    ],
)
def test_hints(text, hint):
    with pytest.raises(SpecError) as caught:
        tree(text)
    assert caught.value.diagnostics[0].hint == hint


def test_one_mistake_gives_one_message():
    """A token taken out or put twice in a spec: what follows is not blamed for it."""
    random = Random(7)
    texts = [path.read_text(encoding="utf-8") for path in SPECS]
    found = []
    for _ in range(400):
        text = random.choice(texts)
        tokens = [
            match
            for match in TOKEN.finditer(text)
            if match.lastgroup not in ("space", "newline", "comment")
        ]
        token = random.choice(tokens)
        doubled = f"{token.group()} {token.group()}" if random.random() < 0.5 else ""
        try:
            tree(text[: token.start()] + doubled + text[token.end() :])
        except SpecError as error:
            found.append(len(error.diagnostics))
    assert len(found) > 200
    assert sum(number == 1 for number in found) >= 0.98 * len(found)


# --- Limits and hostile texts --------------------------------------------------------------------


@pytest.mark.parametrize("operator", [" + ", " - ", " * ", " and ", " or ", " < "])
def test_ten_thousand_terms(operator):
    found = expression(operator.join(["a"] * 10_000))
    assert sum(isinstance(node, syntax.Name) for node in syntax.walk(found)) == 10_000
    assert syntax.equal(found, found) and syntax.print_tree(found)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 1000 + "a" + ")" * 1000,
        "f(" * 1000 + "a" + ")" * 1000,
        "-" * 1000 + "a",
        "not " * 1000 + "a",
        "a ** " * 1000 + "a",
        "a else " * 1000 + "a",
        "a" + "[0]" * 1000,
        "a" + ".b" * 1000,
        "(" * 1000,
    ],
)
def test_deep_nesting_is_a_clear_error(text):
    assert codes(f"def f(a) = {text}\n") == ["nested-too-deep"]


def test_deep_blocks_are_a_clear_error():
    lines = [" " * at + "attention f(q):\n" for at in range(1000)]
    assert "nested-too-deep" in codes("".join(lines) + " " * 1000 + "mask: j <= i\n")


def test_bracket_nesting_within_the_limit():
    assert expression("(" * 199 + "a" + ")" * 199).name == "a"


def test_file_size_limit():
    assert codes("#" * (MAX_CHARACTERS + 1)) == ["file-too-large"]
    assert codes("#" * MAX_CHARACTERS) == ["empty-file"]


def test_many_mistakes_are_bounded_in_number_and_time():
    begin = time.perf_counter()
    assert len(codes("def f(x) = x x\n" * 20_000)) == 50
    assert len(codes("def f(x) = (\n" * 20_000)) == 50
    assert time.perf_counter() - begin < 20


def test_text_is_data():
    hostile = 'attention f(q):\n    mask: __import__("os").system("true")\n'
    assert codes(hostile) == ["string"]
    assert codes("def f(x) = __import__(x).system(x)\n") == ["call-of-value"]
    assert tree("def f(x) = __import__(x) + eval(x)\n").defs


def lands(text: str) -> None:
    """A text parses, or fails by a SpecError whose message can be shown."""
    try:
        tree(text)
    except SpecError as error:
        assert error.diagnostics and str(error)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_any_text_lands(text):
    lands(text)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_land(raw):
    lands(raw.decode("latin-1"))


PIECES = st.sampled_from(
    [
        *(
            "attention f(q)",
            "pipeline",
            "def f(x)",
            "mask",
            "score",
            "update",
            "param",
            "state",
            "x",
        ),
        *("return", "repeat", "solve", "axis", "emit", "from a import b", "for", "over", "if"),
        *("else", "not", "and", "in", "of", "real", "\n", "\n    ", "\n        ", "\n  ", "\n\t"),
        *("(", ")", "[", "]", ":", ",", "=", "==", "<", "..", "+", "-", "**", "|", ".", " ", "1"),
        *("1.", "#", "&&", "'", "\r\n", "\x01", "≤"),
    ]
)


@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_any_mixture_of_tokens_lands(text):
    lands(text)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SPECS), st.data())
def test_any_damaged_spec_lands(path, data):
    text = path.read_text(encoding="utf-8")
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 30, len(text))))
    lands(text[:start] + data.draw(PIECES) + text[end:])


def processor_seconds():
    """What finished children took, however busy the machine is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_start_up_is_small():
    command = (
        "from attnc.parser import parse; from attnc.source import Source;"
        "parse(Source('def f(x) = x\\n', 'x'))"
    )
    times = []
    for _ in range(3):
        begin = processor_seconds()
        subprocess.run([sys.executable, "-c", command], check=True, env=dict(os.environ))
        times.append(processor_seconds() - begin)
    assert min(times) < 0.5
