"""Ranges and axes written wrongly: where an axis lacks its name, its end or its form.

A range is LOW .. HIGH without HIGH itself and has no brackets; an axis is introduced by the name of
its index. Each rule rebuilds from the line what was probably meant, and the hint shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from attnc.trouble import CLOSING, OPENING, Mistake, Trouble

_STAGES = frozenset({"input", "param", "static", "state"})
_TIGHT_AFTER = OPENING | {"."}
_TIGHT_BEFORE = CLOSING | {",", ".", ":"}
_NAMES = ("lag", "r", "c", "u")  # for an axis whose name is missing: one that the line lacks


def phrase(tokens: Sequence[str]) -> str:
    """Tokens as they are written: spaces around operators, none after a sign or inside brackets."""
    text, before, sign = "", "", False
    for token in tokens:
        call = token in OPENING and (_is_name(before) or before in CLOSING)
        tight = not text or sign or before in _TIGHT_AFTER or token in _TIGHT_BEFORE or call
        text += token if tight else f" {token}"
        sign = token in ("-", "+") and not (_is_word(before) or before in CLOSING)
        before = token
    return text


def closed_end(tokens: Sequence[str]) -> str:
    """The end of a range that shall hold `tokens` too."""
    if len(tokens) == 1 and tokens[0].isdigit():
        return str(int(tokens[0]) + 1)
    if len(tokens) > 2 and tuple(tokens[-2:]) == ("-", "1"):
        return phrase(tokens[:-2])
    return f"{phrase(tokens)} + 1"


def interval(opening: str, inside: Sequence[str], closing: str) -> str | None:
    """The range that an interval in brackets means, as `[a, b)`; None where it has not two ends."""
    for separator in ("..", ",", ":"):
        parts = split(inside, (separator,))
        if len(parts) == 2 and all(parts):
            low = closed_end(parts[0]) if opening == "(" and closing == "]" else phrase(parts[0])
            high = closed_end(parts[1]) if closing == "]" else phrase(parts[1])
            return f"{low} .. {high}"
    return None


def split(tokens: Sequence[str], separators: Sequence[str]) -> list[list[str]]:
    """The tokens between separators that stand outside of brackets."""
    parts: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token in OPENING) - (token in CLOSING)
        if token in separators and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def range_mistake(at: Trouble) -> Mistake | None:
    """The mistake of a range or an axis, if it is one."""
    for rule in (_interval, _at_most, _two_ends, _bounds_around, _axis_form, _dimension):
        mistake = rule(at)
        if mistake is not None:
            return mistake
    return None


def _interval(at: Trouble) -> Mistake | None:
    """`j in [0, n]`."""
    if at.found != "[" or at.before != "in" or not at.wants_operand:
        return None
    rest = at.tokens[at.index + 1 :]
    inside = _until_closed(rest)
    closing = rest[len(inside)] if len(inside) < len(rest) else "]"
    better = interval("[", inside, closing)
    return Mistake("range-brackets", {"better": better}) if better else None


def _at_most(at: Trouble) -> Mistake | None:
    """`r <= n` where an index is introduced."""
    split_equal = at.found == "=" and at.before == "<"
    if not split_equal and not (at.found == "<=" and at.split):
        return None
    bound = _until_closed(split(at.tokens[at.index + 1 :], (",", ":"))[0])
    name = at.tokens[at.index - 2] if split_equal else at.before
    if not bound or not _is_name(name):
        name, bound = "r", ["n"]
    return Mistake("binder-below", {"name": name, "end": closed_end(bound)})


def _two_ends(at: Trouble) -> Mistake | None:
    """`c < LOW .. HIGH`, and `c in LOW : HIGH`."""
    binder = _binder(at)
    if len(binder) < 4 or not _is_name(binder[0]):
        return None
    name, joint, *rest = binder
    if joint == "<" and at.found == ".." and ".." not in at.tokens[_start(at) : at.index]:
        return Mistake("range-below", {"better": f"{name} in {phrase(rest)}"})
    low, *ends = split(rest, (":",))
    if joint == "in" and at.found == ":" and low and len(ends) == 1 and ends[0]:
        return Mistake("range-colon", {"better": f"{phrase(low)} .. {phrase(ends[0])}"})
    return None


def _bounds_around(at: Trouble) -> Mistake | None:
    """`axis LOW <= c < HIGH`."""
    binder = _binder(at)
    parts = split(binder, ("<", "<="))
    if at.first != "axis" or len(parts) != 3 or not all(parts) or len(parts[1]) != 1:
        return None
    compared = [token for token in binder if token in ("<", "<=")]
    low = phrase(parts[0]) if compared[0] == "<=" else closed_end(parts[0])
    high = phrase(parts[2]) if compared[1] == "<" else closed_end(parts[2])
    words = {"name": parts[1][0], "better": f"{parts[1][0]} in {low} .. {high}"}
    return Mistake("axis-form", words)


def _axis_form(at: Trouble) -> Mistake | None:
    """`axis c = n`, `axis c: LOW .. HIGH`, `axis c[n]`."""
    if at.first != "axis":
        return None
    names = list(takewhile(_is_listed, at.tokens[1:]))
    rest = list(at.tokens[1 + len(names) :])
    known = rest[:1] in (["<"], ["in"], ["of"]) or rest[:2] == ["=", "("]
    if not names or names[-1] == "," or known or at.index < len(names) + 1:
        return None
    while rest and rest[0] in (":", "=", "==", "[", "("):
        closes = rest[0] in OPENING and rest[-1] in CLOSING
        rest = rest[1:-1] if closes else rest[1:]
    if not rest or not all(_is_name(name) for name in names[::2]):
        return None
    name = phrase(names)
    return Mistake("axis-form", {"name": name, "better": _introduced(name, rest)})


def _dimension(at: Trouble) -> Mistake | None:
    """`real[h, 1 - size .. size]`, `real[h, 32]`: no name for the axis."""
    if at.first not in _STAGES or at.opened != "[":
        return None
    binder = _binder(at)
    if not binder or (len(binder) == 1 and _is_name(binder[0])) or binder[1:2] in (["<"], ["in"]):
        return None
    name = next((name for name in _NAMES if name not in at.tokens), "axis1")
    if binder[1:2] == ["="] and _is_name(binder[0]):
        name, binder = binder[0], binder[2:]
    ends = split(binder, ("..", ":"))
    if not all(ends) or len(ends) > 2:
        return None
    found = " .. ".join(map(phrase, ends))
    what = "range" if len(ends) == 2 else "length"
    words = {"found": found, "what": what, "better": _introduced(name, binder)}
    return Mistake("axis-without-name", words)


def _introduced(name: str, extent: Sequence[str]) -> str:
    """`name` introduced over a range or a length."""
    ends = split(extent, ("..", ":"))
    if len(ends) == 2 and all(ends):
        return f"{name} in {phrase(ends[0])} .. {phrase(ends[1])}"
    return f"{name} < {phrase(extent)}"


def _start(at: Trouble) -> int:
    """Where the binder around the trouble begins: after the last comma, bracket, `in`'s line."""
    depth = 0
    for place in range(min(at.index, len(at.tokens)) - 1, 0, -1):
        token = at.tokens[place]
        depth += (token in CLOSING) - (token in OPENING)
        if depth < 0 or (token == "," and depth == 0):
            return place + 1
    return 1


def _binder(at: Trouble) -> list[str]:
    """The tokens of the binder (between commas, inside its bracket) around the trouble."""
    start = _start(at)
    return _until_closed(split(_until_closed(at.tokens[start:]), (",",))[0])


def _until_closed(tokens: Sequence[str]) -> list[str]:
    """The tokens before the bracket that closes what stands around them."""
    found: list[str] = []
    depth = 0
    for token in tokens:
        depth += (token in OPENING) - (token in CLOSING)
        if depth < 0:
            break
        found.append(token)
    return found


def _is_listed(token: str) -> bool:
    """A name or the comma between two."""
    return token == "," or (_is_name(token) and token not in ("in", "of"))


def _is_name(token: str) -> bool:
    return token[:1].isalpha() or token[:1] == "_"


def _is_word(token: str) -> bool:
    return token[:1].isalnum() or token[:1] == "_"
