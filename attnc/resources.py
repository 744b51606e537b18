"""The files that are shipped with attnc: the grammar, the library in the language, the templates.

The one place that reads package data, and the one that imports jinja2.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

GRAMMAR = "attnc.grammar"
TEMPLATES = "attnc.templates"


@cache
def read_grammar(name: str) -> str:
    """The text of a file of grammar/, such as "messages.toml" or "std/core.attn"."""
    return files(GRAMMAR).joinpath(name).read_text(encoding="utf-8")


@cache
def library_names() -> tuple[str, ...]:
    """The names of the library's files, as `from NAME import` takes them, in order."""
    entries = files(GRAMMAR).joinpath("std").iterdir()
    return tuple(
        sorted(entry.name[: -len(".attn")] for entry in entries if entry.name.endswith(".attn"))
    )


def read_library(name: str) -> str:
    """The text of a library file; `name` is one of `library_names()`."""
    return read_grammar(f"std/{name}.attn")


@cache
def read_template(name: str) -> str:
    """The text of a file of templates/, such as "cpu/stream.hpp", as it is."""
    return files(TEMPLATES).joinpath(name).read_text(encoding="utf-8")


@cache
def template_environment() -> Environment:
    """The one jinja2 environment: strict, without escaping, templates named by their path."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(TEMPLATES, ""),
        undefined=StrictUndefined,
        autoescape=False,  # the output is program text; every hole is filled by a printer
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
