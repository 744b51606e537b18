"""Functions of Triton whose texts are equal stand once in a module: the lists of tiles of most
kernels, merges, the helpers of scans."""

from __future__ import annotations

import re
from collections.abc import Iterable

FUNCTION = re.compile(r"@triton_jit\ndef (\w+)(\(.*?\n)\n\n", re.DOTALL)


def share_functions(chapters: Iterable[str]) -> list[str]:
    """The texts of kernel sets, in order, without the functions that an earlier one has but for
    their names, whose names stand instead."""
    known: dict[str, str] = {}
    return [_shared(chapter, known) for chapter in chapters]


def _shared(chapter: str, known: dict[str, str]) -> str:
    """`known`: name by the rest of the text, of functions before."""
    place = 0
    while found := FUNCTION.search(chapter, place):
        name, rest = found.groups()
        first = known.setdefault(rest, name)
        place = found.end()
        if first != name:
            chapter = chapter[: found.start()] + chapter[found.end() :]
            chapter = re.sub(rf"\b{name}\b", first, chapter)
            place = found.start()
    return chapter
