"""The errors of attnc: a base class, diagnostics of specs with their catalogue, and wrong calls.

Three kinds never mix: mistakes in a spec (`SpecError`, a list of diagnostics), mistakes in a call
(`CallError`), and bugs of attnc itself (`InternalError`). Every message about a spec is written
once, as a function under `@message`, which also enters it in the `CATALOGUE`; a test asks that each
entry is met by a spec of tests/bad.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Concatenate, Literal, NamedTuple, ParamSpec

from attnc.source import Span

Kind = Literal["syntax", "name", "kind", "shape", "axis", "domain", "stage", "legality", "limit"]
Severity = Literal["error", "warning"]
P = ParamSpec("P")


class AttncError(Exception):
    """The base of every error that attnc raises on purpose."""


# --- Diagnostics of a spec -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One message about a place in a spec. The code is its name in the catalogue."""

    span: Span
    message: str
    hint: str
    kind: Kind
    severity: Severity
    code: str

    def __str__(self) -> str:
        head = f"{self.span}: {self.severity}[{self.code}]: {self.message}"
        hint = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{head}\n{self.span.excerpt()}{hint}"


class Wording(NamedTuple):
    """What a message says, and the hint that names the likely intention."""

    message: str
    hint: str = ""


class Entry(NamedTuple):
    """A message of the catalogue."""

    code: str
    kind: Kind
    severity: Severity


CATALOGUE: dict[str, Entry] = {}


def enter(code: str, kind: Kind, severity: Severity = "error") -> Entry:
    """Enters a message in the catalogue; a code is used once."""
    if code in CATALOGUE:
        raise InternalError(f"the message `{code}` is in the catalogue twice")
    CATALOGUE[code] = Entry(code, kind, severity)
    return CATALOGUE[code]


def message(
    kind: Kind, severity: Severity = "error"
) -> Callable[[Callable[P, Wording]], Callable[Concatenate[Span, P], Diagnostic]]:
    """Decorates a function that words one message; the result takes the span first.

    The function's name with dashes is the message's code:

        @message("name")
        def unknown_name(name: str) -> Wording:
            return Wording(f"`{name}` is not known here.")

        unknown_name(span, "winow")  # a Diagnostic with code "unknown-name"
    """

    def register(words: Callable[P, Wording]) -> Callable[Concatenate[Span, P], Diagnostic]:
        entry = enter(words.__name__.replace("_", "-"), kind, severity)

        def diagnose(span: Span, /, *args: P.args, **kwargs: P.kwargs) -> Diagnostic:
            worded = words(*args, **kwargs)
            return Diagnostic(span, worded.message, worded.hint, *entry[1:], entry.code)

        diagnose.__name__ = words.__name__
        diagnose.__doc__ = words.__doc__
        return diagnose

    return register


class SpecError(AttncError):
    """A spec with mistakes: all that were found, in the order of the text."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        found = dict.fromkeys(diagnostics)
        self.diagnostics: tuple[Diagnostic, ...] = tuple(
            sorted(found, key=lambda one: (one.span.source.name, one.span.start, one.span.end))
        )
        super().__init__("\n".join(str(one) for one in self.diagnostics))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[Diagnostic, ...]]]:
        return type(self), (self.diagnostics,)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "Did you mean `window`?" for the known name nearest to `name`, or nothing."""
    close = closest(name, known)
    return f"Did you mean `{close}`?" if close else ""


def closest(name: str, known: Iterable[str]) -> str:
    """The known name that looks most like `name`, or the empty string."""
    from difflib import get_close_matches  # slow to import, and needed for errors only

    candidates = [other for other in dict.fromkeys(known) if other != name][:2000]
    found = get_close_matches(name[:80], candidates, n=1, cutoff=0.6)
    return found[0] if found else ""


# --- Wrong calls ---------------------------------------------------------------------------------


class CallError(AttncError):
    """A call of an operator with a wrong argument: which, what was expected, what came."""

    def __init__(self, operator: str, argument: str, expected: str, came: str) -> None:
        self.operator = operator
        self.argument = argument
        self.expected = expected
        self.came = came
        super().__init__(f"{operator}: argument `{argument}`: expected {expected}, got {came}")

    def __reduce__(self) -> tuple[type[CallError], tuple[str, str, str, str]]:
        return type(self), (self.operator, self.argument, self.expected, self.came)


class ArgumentMissing(CallError):
    """An argument without a default was not given."""

    def __init__(self, operator: str, argument: str, expected: str, came: str = "nothing") -> None:
        super().__init__(operator, argument, expected, came)


class ArgumentUnknown(CallError):
    """An argument that the operator does not have, or one given twice."""

    def __init__(self, operator: str, argument: str, expected: str, came: str) -> None:
        super().__init__(operator, argument, expected, came)

    @classmethod
    def among(cls, operator: str, argument: str, known: Sequence[str]) -> ArgumentUnknown:
        """The error for a name outside `known`, with the nearest known name."""
        names = ", ".join(known) if known else "no keyword at all"
        came = " ".join(filter(None, ["an unknown name.", did_you_mean(argument, known)]))
        return cls(operator, argument, f"one of: {names}", came)


class ShapeError(CallError):
    """A tensor whose shape does not fit its declaration or the other tensors."""


class DtypeError(CallError):
    """An argument of the wrong type: a tensor's dtype, or the type of a number."""


class DeviceError(CallError):
    """A tensor on another device than the rest."""


class ValueRangeError(CallError):
    """A number or an entry of a tensor outside what the operator allows."""


# --- What attnc cannot do here -------------------------------------------------------------------


class NoDerivative(AttncError):
    """A derivative that does not exist was asked for: by an integer, by what has no influence."""

    def __init__(self, operator: str, argument: str, reason: str) -> None:
        self.operator = operator
        self.argument = argument
        self.reason = reason
        super().__init__(f"{operator}: there is no gradient of `{argument}`: {reason}.")

    def __reduce__(self) -> tuple[type[NoDerivative], tuple[str, str, str]]:
        return type(self), (self.operator, self.argument, self.reason)


class UnsupportedError(AttncError):
    """A backend lacks a feature that the spec uses."""

    def __init__(self, feature: str, backend: str, instead: Sequence[str] = ()) -> None:
        self.feature = feature
        self.backend = backend
        self.instead = tuple(instead)
        names = " or ".join(f'backend="{name}"' for name in self.instead)
        way = f" These can: {names}." if names else " No backend can yet."
        who = "kernels" if backend == "kernel" else f"the {backend} backend"
        super().__init__(f"{who} cannot do {feature}.{way}")

    def __reduce__(self) -> tuple[type[UnsupportedError], tuple[str, str, tuple[str, ...]]]:
        return type(self), (self.feature, self.backend, self.instead)


class CompilerNotFound(AttncError):
    """No compiler on this machine for a backend that needs one."""

    def __init__(self, wanted: str, instead: Sequence[str] = ("eager", "numpy")) -> None:
        self.wanted = wanted
        self.instead = tuple(instead)
        names = " or ".join(f'backend="{name}"' for name in self.instead)
        super().__init__(f"{wanted} was not found. Install one, or use {names}.")

    def __reduce__(self) -> tuple[type[CompilerNotFound], tuple[str, tuple[str, ...]]]:
        return type(self), (self.wanted, self.instead)


class CacheError(AttncError):
    """The cache folder cannot be used: not writable, full, or not private to its owner."""


class InternalError(AttncError):
    """A bug of attnc."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(f"{text}\nThis is a bug of attnc: please report it with the spec.")

    def __reduce__(self) -> tuple[type[InternalError], tuple[str]]:
        return type(self), (self.text,)
