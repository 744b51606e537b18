"""Syntax mistakes: which one it is, and the words for it from grammar/messages.toml.

The parser knows the token it could not read and what it could have read instead; the rules here,
in order, name the mistake. The words, their hints and examples of each stand in messages.toml; a
test parses the examples. Only a text with mistakes pays for any of it.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, cast

from attnc.errors import CATALOGUE, Diagnostic, Entry, did_you_mean
from attnc.range_mistakes import phrase, range_mistake, split
from attnc.resources import library_names, read_grammar, read_library
from attnc.source import Span
from attnc.trouble import CLOSING, OPENING, Mistake, Trouble

CLAUSES = frozenset({"mask", "score", "normalize", "read"})
DECLARATIONS = frozenset({"input", "param", "static", "state"})
BLOCKS = frozenset({"attention", "pipeline", "def", "update", "repeat"})
HEADS = CLAUSES | BLOCKS
STATEMENTS = CLAUSES | DECLARATIONS | BLOCKS - {"def"} | {"axis", "emit", "solve", "return"}
FILE_WORDS = frozenset({"attention", "pipeline", "def", "from"})
SCALARS = frozenset({"real", "int", "bool", "complex"})
SYMBOLS = ("+", "-", "*", "/", "//", "%", "@", "**", "..", "|", "=")
COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
JOINING_WORDS = ("and", "or", "not", "in", "else", "if", "of", "over", "for")
OPERATORS = frozenset(SYMBOLS + COMPARISONS + JOINING_WORDS)
LOOPS = frozenset({"for", "while"})
CHOICES = frozenset({"if", "elif", "else"})
FOLDS = frozenset({"sum", "prod", "max", "min", "argmax", "argmin", "topk"})  # and those of files


class Words(NamedTuple):
    """A message of messages.toml; `{found}` and the like are filled in."""

    message: str
    hint: str
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Messages:
    """What messages.toml says: messages by code, and hints for strange characters."""

    mistakes: dict[str, Words]
    strange: dict[str, str]


@cache
def load_messages() -> Messages:
    """Reads messages.toml and enters its codes in the catalogue."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    text = tomllib.loads(read_grammar("messages.toml"))
    mistakes: dict[str, Words] = {}
    for entry in text["mistake"]:
        mistakes[entry["code"]] = Words(
            entry["message"], entry.get("hint", ""), tuple(entry["examples"])
        )
        kind = cast(Any, entry.get("kind", "syntax"))
        CATALOGUE.setdefault(entry["code"], Entry(entry["code"], kind, "error"))
    return Messages(mistakes, dict(text["strange"]))


def syntax_diagnostic(code: str, span: Span, **words: str) -> Diagnostic:
    """The diagnostic `code` of messages.toml at a span, its blanks filled with `words`."""
    known = load_messages().mistakes[code]
    entry = CATALOGUE[code]
    message, hint = (text.format_map(words) for text in (known.message, known.hint))
    return Diagnostic(span, message, hint.strip(), entry.kind, entry.severity, code)


def strange_token(found: str) -> tuple[str, dict[str, str]]:
    """The mistake, with its words, for a token that the language does not have."""
    first = found[0]
    if first in "\"'\u201c\u201d\u2018\u2019\u00ab\u00bb":
        return "string", {}
    if found != "..." and first.isascii() and (first.isdigit() or first == "."):
        return "number-form", {"found": shortened(found), "better": _better_number(found)}
    hint = load_messages().strange.get(found) or load_messages().strange.get(first)
    if hint is not None and first.isascii():
        return "foreign-operator", {"found": shortened(found), "better": hint}
    if not first.isascii():
        return "non-ascii", {"found": _shown(first), "better": hint or _spelled(first)}
    return "strange-character", {"found": _shown(first)}


def _better_number(found: str) -> str:
    whole, dot, fraction = found.partition(".")
    if dot and (whole + fraction).isdigit():
        return f"Write {whole or '0'}.{fraction or '0'}."
    return "Write 12, 0.5 or 1e-6; a name does not begin with a digit."


def _shown(character: str) -> str:
    name = unicodedata.name(character, "")
    number = f"U+{ord(character):04X}"
    return f"`{character}` ({name or number})" if character.isprintable() else name or number


def _spelled(character: str) -> str:
    """Greek letters by their names; for the rest what names are made of."""
    name = unicodedata.name(character, "")
    if name.startswith("GREEK"):
        return f"Spell it: `{name.split()[-1].lower()}`."
    return "Names are made of A-Z, a-z, 0-9 and _; other characters may stand in comments."


def shortened(text: str) -> str:
    """At most 40 characters of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:37] + "..."


# --- Which mistake it is -------------------------------------------------------------------------

Rule = Callable[[Trouble], Mistake | None]


def _is_name(token: str) -> bool:
    return token[:1].isalpha() or token[:1] == "_"


def _is_operand(token: str) -> bool:
    return token[:1].isalnum() or token[:1] == "_" or token in ("(", "[")


def _python_word(at: Trouble) -> Mistake | None:
    """`lambda`, and a conditional as in Python."""
    if "lambda" in (at.found, at.before):
        return Mistake("lambda", {}, "found" if at.found == "lambda" else "before")
    if at.first in LOOPS and at.index <= 1:
        return Mistake("loop", {"found": at.first}, "first")
    if at.first in CHOICES and at.index <= 1:
        return Mistake("conditional", {}, "first")
    if at.found == "if" and not at.wants_operand:
        return Mistake("conditional", {})
    if at.found == "for" and at.opened:
        return Mistake("comprehension", {})
    if at.found == "[" and at.wants_operand:
        return Mistake("array-literal", {})
    if at.found == ":" and at.opened == "[":
        return Mistake("slice", {})
    return None


def _statement_word(at: Trouble) -> Mistake | None:
    """A first word that begins nothing here."""
    first, plain = at.first, not at.seen("=")
    if at.index == 0:
        return _misplaced(at)
    if at.nested and at.index == 1 and first in FILE_WORDS - STATEMENTS:
        return Mistake("file-word-inside", {"found": first}, "first")
    if first in STATEMENTS | FILE_WORDS or not _is_name(first):
        return None
    if (
        at.found == ":"
        and plain
        and at.tokens[at.index + 1 : at.index + 2] in [(scalar,) for scalar in SCALARS]
    ):
        return Mistake("declaration-without-stage", {"found": shortened(first)}, "first")
    if plain and not at.opened and at.found == ",":
        return Mistake("several-defined", {})
    lone = at.index == 1 and (not at.found or _is_name(at.found))
    if plain and not at.opened and (at.found == ":" or lone):
        return _unknown(first, at.nested)
    return None


def _misplaced(at: Trouble) -> Mistake | None:
    first = at.found
    if not at.nested and first in STATEMENTS:
        return Mistake("statement-outside", {"found": first})
    if _is_name(first) and first not in OPERATORS:
        return _unknown(first, at.nested)
    return Mistake("not-a-statement", {"found": shortened(first)})


def _unknown(first: str, nested: bool) -> Mistake:
    known = sorted(STATEMENTS if nested else FILE_WORDS)
    better = did_you_mean(first, known) or f"A line begins with {', '.join(known)}" + (
        " or NAME = ..." if nested else "."
    )
    return Mistake("unknown-statement", {"found": shortened(first), "better": better}, "first")


def _equals(at: Trouble) -> Mistake | None:
    """`=` and `==` for each other, `<=` in a binder."""
    if at.found == "=" and "COMPARE" in at.accepts:
        return Mistake("single-equal", {})
    if at.found == "==" and at.split:
        return Mistake("double-equal", {})
    if at.index == 1 and at.found in ("=", "[") and at.first in STATEMENTS:
        return Mistake("statement-word-defined", {"found": at.first}, "before")
    return None


def _colon(at: Trouble) -> Mistake | None:
    if "COLON" not in at.accepts or at.opened:
        return None
    if at.first in HEADS or (at.first == "solve" and at.seen("in")):
        return Mistake("missing-colon", {"found": at.first}, "before")
    if at.first in DECLARATIONS:
        return Mistake("declaration-without-kind", {"found": shortened(at.before)}, "before")
    return None


def _block_on_a_line(at: Trouble) -> Mistake | None:
    """`update: S = ...`: the lines of a block stand under its header."""
    if at.accepts == {"_NL"} and at.first in BLOCKS and at.before == ":":
        return Mistake("block-on-a-line", {"found": at.first})
    return None


def _reserved(at: Trouble) -> Mistake | None:
    """A word of the language where a name is introduced."""
    wants_name = "NAME" in at.accepts and not at.wants_operand
    if wants_name and _is_name(at.found):
        return Mistake("reserved-word", {"found": at.found})
    if wants_name and at.before == "repeat":
        return Mistake("repeat-without-count", {})
    if wants_name:
        return Mistake("missing-name", {"before": at.before or "this"})
    if at.accepts == {"SCALAR"}:
        return Mistake("unknown-kind", {"found": shortened(at.found) or "nothing"})
    return None


def _operand(at: Trouble) -> Mistake | None:
    """Where an expression should begin."""
    if not at.wants_operand:
        return None
    if at.before == "," and (at.found in CLOSING or not at.found or at.found == ":"):
        return Mistake("trailing-comma", {}, "before")
    if at.before in ("(", "[") and at.found in CLOSING:
        return Mistake("empty-brackets", {"found": at.before + at.found}, "before")
    return Mistake(
        "missing-operand", {"before": at.before or "this"}, "before" if at.before else "found"
    )


def _fold_colon(at: Trouble) -> Mistake | None:
    """`softmax(j score)`, `sum(c < 4 x[c])`: no colon between an index and what is folded."""
    value = _is_operand(at.found) and at.found not in OPERATORS | OPENING
    if not value or "COLON" not in at.accepts or at.opened != "(":
        return None
    start = _bracket(at.tokens[: at.index])
    callee, inside = at.tokens[start - 1] if start else "", at.tokens[start + 1 : at.index]
    if not _is_name(callee):
        return None
    binders = split(inside, (",",))
    introduced = any(binder[1:2] in (["<"], ["in"], ["of"], ["if"]) for binder in binders)
    names = all(len(binder) == 1 and _is_name(binder[0]) for binder in binders)
    if not introduced and not (names and callee in FOLDS | _library_folds()):
        return None
    better = f"{callee}({phrase(inside)}: {shortened(at.found)}"
    return Mistake("missing-fold-colon", {"before": at.before, "better": better})


def _bracket(tokens: Sequence[str]) -> int:
    """Where the innermost bracket that is still open begins."""
    depth = 0
    for place in range(len(tokens) - 1, -1, -1):
        depth += (tokens[place] in CLOSING) - (tokens[place] in OPENING)
        if depth < 0:
            return place
    return 0


@cache
def _library_folds() -> frozenset[str]:
    """The functions of the library that fold over an index."""
    texts = map(read_library, library_names())
    return frozenset(name for text in texts for name in re.findall(r"(?m)^def (\w+)\(\w+:", text))


def _between(at: Trouble) -> Mistake | None:
    """After a whole expression, or after a name that is being introduced."""
    after_value = "ADD" in at.accepts
    if at.before == "not" and after_value:
        return Mistake("not-in-operand", {}, "before")
    if _is_operand(at.found) and at.found not in OPERATORS and after_value:
        product = at.before[:1].isdigit() or at.before in CLOSING or at.found == "("
        better = "Products are written with `*`." if product else "Write one, such as `*` or `and`."
        better = "Write `==`." if at.found == "is" else better
        words = {"before": shortened(at.before), "found": shortened(at.found), "better": better}
        return Mistake("missing-operator", words)
    if at.opened == "[" and "LESSTHAN" in at.accepts:
        return Mistake("left-side", {"found": shortened(at.found)})
    if at.first == "axis" and not at.found:
        return Mistake("axis-extent", {"found": shortened(at.before)}, "before")
    if at.found == ".." and "ADD" in at.accepts:
        return Mistake("second-range", {})
    return None


RULES: tuple[Rule, ...] = (
    range_mistake,
    _python_word,
    _equals,
    _statement_word,
    _colon,
    _block_on_a_line,
    _reserved,
    _operand,
    _fold_colon,
    _between,
)

_WORDING = {
    "COLON": "`:`",
    "COMMA": "`,`",
    "RPAR": "`)`",
    "RSQB": "`]`",
    "LSQB": "`[`",
    "EQUAL": "`=`",
    "NAME": "a name",
    "SCALAR": "real, int, bool or complex",
    "LESSTHAN": "`<`",
    "IN": "`in`",
    "OF": "`of`",
    "RANGE": "`..`",
    "IMPORT": "`import`",
    "_NL": "the end of the line",
    "LPAR": "`(`",
    "ADD": "an operator",
}
_OPERATORS = frozenset({"LPAR", "LSQB", "IN", "RANGE"})  # said by "an operator"


def name_mistake(trouble: Trouble) -> Mistake:
    """The mistake behind a trouble: that of the first rule that knows it."""
    for rule in RULES:
        mistake = rule(trouble)
        if mistake is not None:
            return mistake
    hidden = _OPERATORS if "ADD" in trouble.accepts else frozenset[str]()
    expected = [_WORDING[name] for name in _WORDING if name in trouble.accepts - hidden]
    found = f"`{shortened(trouble.found)}`" if trouble.found else "the end of the line"
    return Mistake("unexpected", {"found": found, "expected": listed(expected)})


def listed(words: Sequence[str]) -> str:
    """ "a, b or c"."""
    if len(words) < 2:
        return "".join(words) or "something else"
    return ", ".join(words[:-1]) + " or " + words[-1]
