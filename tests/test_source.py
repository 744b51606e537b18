"""Sources, spans and excerpts; the catalogue of errors and its exceptions."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnc import errors
from attnc.source import EXCERPT_WIDTH, Source


def spot(text: str, piece: str, **place: int):
    """The span of the first `piece` in a text."""
    start = text.index(piece)
    return Source(text, "spec.attn", **place).span(start, start + len(piece))


def test_line_and_column_count_from_one():
    span = spot("a\nbc\n  def\n", "ef")
    assert (span.line, span.column, span.text) == (3, 4, "ef")
    assert str(span) == "spec.attn:3:4"


def test_embedded_text_reports_the_outer_file():
    span = spot("mask: a\nscore: b\n", "b", first_line=41, indent=8)
    assert (span.line, span.column) == (42, 16)
    assert span.excerpt().splitlines()[0] == " 42 | score: b"


def test_span_at_the_end_of_the_text():
    source = Source("ab\n", "spec.attn")
    assert (source.span(3).line, source.span(3).column) == (2, 1)
    assert source.span(3).excerpt().endswith("| ^")


def test_through_covers_both():
    source = Source("a + b\n", "spec.attn")
    assert source.span(4, 5).through(source.span(0, 1)).text == "a + b"


@pytest.mark.parametrize(
    ("text", "piece", "carets"),
    [
        ("abc def\n", "def", "    ^^^"),
        ("\tabc\n", "abc", "    ^^^"),
        ("日本 x\n", "x", "     ^"),
        ("日本 x\n", "本", "  ^^"),
        ("e\u0301 x\n", "x", "  ^"),
        ("x\r\ny\r\n", "x", "^"),
    ],
)
def test_carets_stand_under_the_text(text, piece, carets):
    assert spot(text, piece).excerpt().splitlines()[1] == "   | " + carets


def test_long_line_is_cut_around_the_carets():
    text = "x" * 5000 + " here " + "y" * 5000 + "\n"
    shown, carets = spot(text, "here").excerpt().splitlines()
    assert len(shown) <= EXCERPT_WIDTH + 12
    begin = carets.index("^")
    assert shown[begin : begin + 4] == "here" and carets.count("^") == 4


def test_control_characters_never_reach_the_terminal():
    shown = spot("a \x1b[31m b\n", "b").excerpt()
    assert "\x1b" not in shown


@given(st.text(max_size=300), st.integers(0, 300), st.integers(0, 50))
def test_excerpt_of_anything_is_two_lines(text, start, length):
    start = min(start, len(text))
    span = Source(text, "x").span(start, min(start + length, len(text)))
    assert len(span.excerpt().split("\n")) == 2
    assert span.line >= 1 and span.column >= 1


def test_catalogue_takes_a_code_once():
    with pytest.raises(errors.InternalError, match="twice"):
        errors.enter("unused-code", "name")
        errors.enter("unused-code", "name")
    del errors.CATALOGUE["unused-code"]


def test_message_decorator_enters_and_words():
    @errors.message("name")
    def sample_for_this_test(name: str) -> errors.Wording:
        return errors.Wording(f"`{name}` is odd.", "Leave it.")

    try:
        found = sample_for_this_test(spot("a b\n", "b"), "b")
        assert found.code == "sample-for-this-test" in errors.CATALOGUE
        error = errors.SpecError([found, found])
    finally:
        del errors.CATALOGUE["sample-for-this-test"]
    assert len(error.diagnostics) == 1
    assert str(error) == (
        "spec.attn:1:3: error[sample-for-this-test]: `b` is odd.\n"
        " 1 | a b\n   |   ^\n  hint: Leave it."
    )


def test_spec_error_sorts_its_diagnostics():
    source = Source("ab", "x")
    later, first = (
        errors.Diagnostic(source.span(at, at + 1), "", "", "name", "error", "c") for at in (1, 0)
    )
    assert errors.SpecError([later, first]).diagnostics == (first, later)


def test_errors_survive_pickling():
    samples = [
        errors.ShapeError("f", "q", "4 axes", "3"),
        errors.ArgumentMissing("f", "q", "a tensor"),
        errors.ArgumentUnknown.among("f", "winow", ["window"]),
        errors.UnsupportedError("a state", "triton", ["eager"]),
        errors.CompilerNotFound("a C++ compiler"),
        errors.InternalError("odd"),
        errors.SpecError([]),
    ]
    for sample in samples:
        again = pickle.loads(pickle.dumps(sample))
        assert type(again) is type(sample) and str(again) == str(sample)
        assert isinstance(again, errors.AttncError)


def test_unknown_argument_names_the_nearest():
    error = errors.ArgumentUnknown.among("f", "winow", ["window", "sinks"])
    assert "Did you mean `window`?" in str(error)
