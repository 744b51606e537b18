"""The formatter: canonical, idempotent, and never changing what a text says."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnc import syntax
from attnc.errors import SpecError
from attnc.formatter import format_source
from attnc.parser import parse
from attnc.resources import library_names, read_library
from attnc.source import Source

SPECS = sorted((Path(__file__).parent / "language").glob("*.attn"))
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in SPECS}
TEXTS |= {f"std/{name}": read_library(name) for name in library_names()}


@pytest.mark.parametrize("name", TEXTS)
def test_formatting_is_idempotent_and_keeps_the_tree(name):
    text = TEXTS[name]
    formatted = format_source(text, name)
    assert format_source(formatted) == formatted
    assert syntax.equal(parse(Source(text, name)), parse(Source(formatted, name)))
    assert formatted.count("#") == text.count("#")


@pytest.mark.parametrize("name", TEXTS)
def test_formatting_undoes_squeezed_and_stretched_spaces(name):
    lines = [line.partition("#")[0].rstrip() for line in TEXTS[name].splitlines()]
    canonical = format_source("\n".join(lines))
    stretched = "\r\n".join(
        line[: len(line) - len(line.lstrip())] * 2 + line.lstrip().replace(" ", "   ") + "  "
        for line in canonical.splitlines()
    )
    # Lines that go on inside brackets keep their breaks; their columns follow from the brackets.
    assert format_source(stretched) == canonical


UGLY = """

# head
from   grid import near,near_past
def  f ( x,y = -1 ) = x+-y**-2   # c


def g(j:s):
  a [ i ]=s
  # in
  return  (a[ i+1 ]
   +not_x(a,b = 3 ) - (
     3
   # inside
     + 4
   ))
# after


attention z( q ) for i over j|m :
  mask [j] :not(i<j)and x .y in 0..3 else-1
  read : sum (j if i==j:v[j]@w,-1)
  # tail
# end
"""

CANONICAL = """\
# head
from grid import near, near_past
def f(x, y = -1) = x + -y ** -2  # c

def g(j: s):
    a[i] = s
    # in
    return (a[i + 1]
            + not_x(a, b = 3) - (
                3
                # inside
                + 4
            ))
# after

attention z(q) for i over j | m:
    mask[j]: not (i < j) and x.y in 0 .. 3 else -1
    read: sum(j if i == j: v[j] @ w, -1)
    # tail
# end
"""


def test_canonical_form():
    assert format_source(UGLY) == CANONICAL
    assert format_source(CANONICAL) == CANONICAL


def test_tabs_become_spaces():
    assert format_source("attention f(q):\n\tmask: j <= i\n") == (
        "attention f(q):\n    mask: j <= i\n"
    )


def test_trailing_comment_keeps_its_column():
    text = "def f(x) = x          # kept\n"
    assert format_source(text) == text


def test_wrong_text_is_not_formatted():
    with pytest.raises(SpecError):
        format_source("def f(x = x\n")


NAMES = st.sampled_from(["a", "b", "mask", "score", "state", "x1"])
NUMBERS = st.sampled_from(["0", "1", "2.5", "1e-6"])


def joined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Larger expressions out of smaller ones."""
    operators = ["+", "-", "*", "//", "%", "@", "**", "<", "<=", "==", "and", "or", "else", ".."]
    return st.one_of(
        st.tuples(inner, st.sampled_from(operators), inner).map(lambda t: f"({' '.join(t)})"),
        st.tuples(NAMES, inner, inner).map(lambda t: f"{t[0]}( {t[1]},w={t[2]} )"),
        st.tuples(NAMES, inner).map(lambda t: f"{t[0]} [{t[1]}]"),
        st.tuples(NAMES, inner, inner).map(lambda t: f"sum({t[0]}  if {t[1]}:{t[2]})"),
        inner.map(lambda e: f"(not {e})"),
        inner.map(lambda e: f"(\n- {e})"),
        NAMES.map(lambda n: f"a . {n}"),
    )


@settings(max_examples=100, deadline=None)
@given(st.recursive(NAMES | NUMBERS, joined, max_leaves=12))
def test_random_expressions_keep_their_tree(expression):
    text = f"def f(x)={expression}\n"
    formatted = format_source(text)  # it verifies the tree itself
    assert format_source(formatted) == formatted
