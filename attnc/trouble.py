"""A token that the parser could not read, and the mistake that it turns out to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

OPENING = frozenset({"(", "["})
CLOSING = frozenset({")", "]"})


@dataclass(frozen=True)
class Trouble:
    """A token that the parser could not read.

    tokens: the texts of its logical line; index: which of them it is (len(tokens) at the line's
    end). accepts: the terminals that could have stood there. nested: inside an operator or a def.
    split: only the end of the token is wrong, as of `==` where `=` could stand.
    """

    tokens: tuple[str, ...]
    index: int
    accepts: frozenset[str]
    nested: bool
    split: bool = False

    @property
    def found(self) -> str:
        """The token itself; empty at the end of the line."""
        return self.tokens[self.index] if self.index < len(self.tokens) else ""

    @property
    def before(self) -> str:
        """The token before it; empty at the start of the line."""
        return self.tokens[self.index - 1] if self.index else ""

    @property
    def first(self) -> str:
        """The first token of the line."""
        return self.tokens[0] if self.tokens else ""

    @property
    def opened(self) -> str:
        """The innermost bracket open at the token, if any."""
        stack: list[str] = []
        for token in self.tokens[: self.index]:
            if token in OPENING:
                stack.append(token)
            elif token in CLOSING and stack:
                stack.pop()
        return stack[-1] if stack else ""

    @property
    def wants_operand(self) -> bool:
        """Whether an expression should begin here."""
        return "NUMBER" in self.accepts

    def seen(self, word: str) -> bool:
        """Whether a token stands before the trouble."""
        return word in self.tokens[: self.index]


class Mistake(NamedTuple):
    """A named mistake: its code, its words, and at which token of the line it is."""

    code: str
    words: dict[str, str]
    at: Literal["found", "before", "first"] = "found"
