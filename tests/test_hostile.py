"""Specs that try to break out of the text they are printed into, and specs of absurd size."""

from __future__ import annotations

import builtins
import time
from typing import Any

import pytest
import torch
from surface_cases import close

import attnc
from attnc.errors import AttncError

X = torch.randn(1, 2, 5, 16, generator=torch.Generator().manual_seed(3))

HOSTILE = (
    ("double", "int", "ATTNC_ISA", "f"),
    ("tl", "triton", "exec", "main"),
    ("self", "known", "call", "NULL"),
    ("torch", "np", "range", "double"),
    ("DIGEST", "float", "std", "tensors"),
    ("M", "N", "BLOCK_M", "acc"),
)
REFUSED = (
    *("offset", "key_offset", "key_length", "emit", "operator", "len_i", "len_b", "class"),
    *("None", "__import__", "__class__"),
)
TEMPLATE = """\
attention {operator}(q, k, v):
    # {comment}
    param {param}: int = 3
    input {input}: real[h] = 0.5
    {equation}[j] = 2 * k[j]
    mask: 0 <= i - j < {param}
    score: dot(q[i], {equation}[j]) * scale - {input} * (i - j)
    normalize: softmax(j: score)
"""


def spec(**names: str) -> str:
    """The template with these names."""
    usual = {"operator": "f", "param": "window", "input": "slope", "equation": "held"}
    return TEMPLATE.format(**{**usual, "comment": "", **names})


@pytest.mark.parametrize("names", HOSTILE, ids=lambda names: names[0])
def test_names_of_other_languages_are_only_names(names: tuple[str, str, str, str]) -> None:
    given, number, equation, operator = names
    op = attnc.compile(spec(input=given, param=number, equation=equation, operator=operator))
    numbers: dict[str, Any] = {given: torch.ones(2), number: 2}
    truth = op.reference(X, X, X, **numbers)
    assert close(op(X, X, X, **numbers), truth)
    assert close(getattr(op.module, operator)(X, X, X, **numbers), truth)


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_a_call_cannot_carry_are_refused(name: str) -> None:
    for role in ("input", "param"):
        with pytest.raises(AttncError, match=name):
            attnc.compile(spec(**{role: name}))


@pytest.mark.parametrize(
    "name", ("torch", "DIGEST", "SIGNATURE", "KernelOperator", "list", "eager")
)
def test_operators_that_would_hide_a_name_are_refused(name: str) -> None:
    with pytest.raises(AttncError, match=name):
        attnc.compile(spec(operator=name))


COMMENTS = (
    '""" + __import__("builtins").setattr(__import__("builtins"), "broken", 1) + """',
    "''' \\\" \\\\ \\N{DASH} {0} {x!r} %s %(x)s",
    "{{ 7 * 7 }} {% for x in y %} {# x #}",
    "*/ #error out \\",
    "\u202e \u2028 \x0c \u00e9 \U0001f600",
)


@pytest.mark.parametrize("comment", COMMENTS, ids=range(len(COMMENTS)))
def test_comments_are_never_run(comment: str) -> None:
    try:
        op = attnc.compile(spec(comment=comment))
    except AttncError:
        return
    assert close(op(X, X, X), op.reference(X, X, X))
    assert not hasattr(builtins, "broken") and "49" not in (op.module.__doc__ or "")


@pytest.mark.parametrize(
    "text",
    (
        "__import__('os').system('true')",
        "exec('raise SystemExit')",
        "q.__class__",
        "k[j].__init__",
        "(lambda: 0)()",
        "`id`",
        "f'{q}'",
    ),
)
def test_python_in_an_expression_is_an_error(text: str) -> None:
    with pytest.raises(AttncError):
        attnc.compile(spec().replace("* scale", f"* {text}"))


def bounded(text: str) -> None:
    """Compiles, or a clear error, within the time of a patient person."""
    started = time.monotonic()
    try:
        op = attnc.compile(text, backend="numpy")
        assert op is not None
    except AttncError as error:
        assert len(str(error)) > 10
    assert time.monotonic() - started < 120


LONG = {
    "terms of a score": spec().replace("* scale", "* scale" + " + i * 0.5" * 10_000),
    "terms of a mask": spec().replace("mask: ", "mask: " + "i != 3 and " * 10_000),
    "brackets": spec().replace("* scale", "* " + "(" * 1000 + "scale" + ")" * 1000),
    "functions": spec().replace("* scale", "* " + "exp(" * 1000 + "0" + ")" * 1000),
    "signs": spec().replace("* scale", "* " + "-" * 1000 + "scale"),
    "open brackets": spec().replace("* scale", "* " + "(" * 100_000),
    "a long name": spec(param="w" * 100_000),
    "a long number": spec().replace("= 3", "= " + "9" * 10_000),
}


@pytest.mark.parametrize("name", LONG)
def test_absurd_specs_end_soon(name: str) -> None:
    bounded(LONG[name])
