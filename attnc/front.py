"""The front of the compiler: a source becomes a checked Spec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attnc.errors import AttncError
from attnc.source import Source
from attnc.spec import Spec

NumberValue = int | float | bool


def load_source(given: str | Path) -> Source:
    """The source that a path names, or the text itself (whatever holds a line break, or `attention`
    at its start)."""
    text = str(given)
    if isinstance(given, str) and ("\n" in text or text.startswith(("attention ", "pipeline "))):
        return Source(text, "<text>")
    path = Path(text)
    try:
        return Source(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise AttncError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise AttncError(f"{path} cannot be read: {error}") from None


def read_spec(
    source: Source, name: str | None = None, statics: Mapping[str, NumberValue] | None = None
) -> Spec:
    """Parses and checks a source. `name`: the operator, if not the one named as the file, else the
    last of it."""
    from attnc.check import check_spec
    from attnc.parser import parse

    return check_spec(parse(source), source, operator=name, statics=statics or {})
