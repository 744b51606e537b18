"""The errors that a call can raise: attnc's own where it is installed, else the same classes."""

from __future__ import annotations

try:
    from attnc.errors import (
        ArgumentMissing,
        ArgumentUnknown,
        AttncError,
        CacheError,
        CallError,
        CompilerNotFound,
        DeviceError,
        DtypeError,
        ShapeError,
        UnsupportedError,
        ValueRangeError,
    )
except ImportError:  # a module at large, without attnc

    class AttncError(Exception):  # type: ignore[no-redef]
        """The base of every error that attnc raises on purpose."""

    class CallError(AttncError):  # type: ignore[no-redef]
        """A wrong argument: which, what was expected, what came."""

        def __init__(self, operator: str, argument: str, expected: str, came: str) -> None:
            self.operator, self.argument = operator, argument
            self.expected, self.came = expected, came
            super().__init__(f"{operator}: argument `{argument}`: expected {expected}, got {came}")

    class ArgumentMissing(CallError):  # type: ignore[no-redef]
        """An argument without a default was not given."""

        def __init__(
            self, operator: str, argument: str, expected: str, came: str = "nothing"
        ) -> None:
            super().__init__(operator, argument, expected, came)

    class ArgumentUnknown(CallError):  # type: ignore[no-redef]
        """An argument that the operator does not have, or one given twice."""

        @classmethod
        def among(cls, operator: str, argument: str, known: list[str]) -> CallError:
            return cls(operator, argument, f"one of: {', '.join(known)}", "an unknown name.")

    class ShapeError(CallError):  # type: ignore[no-redef]
        """A tensor whose shape does not fit."""

    class DtypeError(CallError):  # type: ignore[no-redef]
        """An argument of the wrong type."""

    class DeviceError(CallError):  # type: ignore[no-redef]
        """A tensor on another device than the rest."""

    class ValueRangeError(CallError):  # type: ignore[no-redef]
        """A number outside what the operator allows."""

    class UnsupportedError(AttncError):  # type: ignore[no-redef]
        """A backend lacks a feature."""

        def __init__(self, feature: str, backend: str, instead: tuple[str, ...] = ()) -> None:
            ways = " or ".join(f'backend="{name}"' for name in instead)
            text = f"the {backend} backend cannot do {feature}."
            super().__init__(f"{text} These can: {ways}." if ways else text)

    class CompilerNotFound(AttncError):  # type: ignore[no-redef]
        """No compiler on this machine."""

        def __init__(self, wanted: str, instead: tuple[str, ...] = ("eager",)) -> None:
            ways = " or ".join(f'backend="{name}"' for name in instead)
            super().__init__(f"{wanted} was not found. Install one, or use {ways}.")

    class CacheError(AttncError):  # type: ignore[no-redef]
        """The cache folder cannot be used."""


__all__ = [
    "ArgumentMissing",
    "ArgumentUnknown",
    "AttncError",
    "CacheError",
    "CallError",
    "CompilerNotFound",
    "DeviceError",
    "DtypeError",
    "ShapeError",
    "UnsupportedError",
    "ValueRangeError",
]
