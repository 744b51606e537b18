"""What a mod captures: its numbers get names, its tensors are found by name.

A mod is rebuilt around the same code with other cells, defaults and globals, in which ints and
floats are symbols. Functions that it calls by a captured name are rebuilt alike (so `and_masks` and
its masks are seen through); PyTorch's own modules and classes stay as they are.
"""

from __future__ import annotations

import builtins
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

from attnc.flex.symbols import Book

LIBRARIES = ("torch", "numpy", "math", "functools", "itertools", "builtins", "attnc")
DEPTH = 12  # of functions within functions


class Captured:
    """Rebuilds mods; `names` are those of the tensors met on the way, by identity."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.names: dict[int, str] = {}
        self.device: torch.device | None = None  # of the first tensor
        self._kept: list[Any] = []  # so that identities stay theirs
        self._rebuilt: dict[int, Any] = {}

    def rebuilt(self, mod: Callable[..., Any]) -> Callable[..., Any]:
        """The mod with named numbers."""
        made = self._value("mod", mod, 0)
        return made if callable(made) else mod

    def _value(self, name: str, value: Any, depth: int) -> Any:
        if isinstance(value, torch.Tensor):
            self._tensor(name, value)
            return value
        if type(value) in (int, float):
            return self.book.symbol(name, value)
        if id(value) in self._rebuilt:
            return self._rebuilt[id(value)]
        if depth > DEPTH:
            return value
        if isinstance(value, types.FunctionType):
            return self._function(value, depth)
        if isinstance(value, types.MethodType):
            self._attributes(value.__self__)
            return types.MethodType(self._value(name, value.__func__, depth + 1), value.__self__)
        if isinstance(value, functools.partial):
            args = [
                self._value(f"{name}{n}", arg, depth + 1) for n, arg in enumerate(value.args, 1)
            ]
            keywords = {k: self._value(k, v, depth + 1) for k, v in value.keywords.items()}
            return functools.partial(self._value(name, value.func, depth + 1), *args, **keywords)
        if type(value) in (list, tuple):
            items = [self._value(f"{name}{n}", item, depth + 1) for n, item in enumerate(value)]
            return type(value)(items)
        if type(value) is dict:
            return {k: self._value(_word(k, name), v, depth + 1) for k, v in value.items()}
        if not isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType)):
            self._attributes(value)
        return value

    def _tensor(self, name: str, tensor: torch.Tensor) -> None:
        self.names.setdefault(id(tensor), name)
        self.device = self.device or tensor.device
        self._kept.append(tensor)

    def _attributes(self, owner: Any) -> None:
        """The tensors that an object holds by name."""
        held = dict(getattr(owner, "__dict__", {}))
        for inner in ("_parameters", "_buffers"):
            held.update(held.get(inner) or {})
        for name, value in held.items():
            if isinstance(value, torch.Tensor):
                self._tensor(str(name), value)

    def _function(self, function: types.FunctionType, depth: int) -> types.FunctionType:
        library = (function.__module__ or "").partition(".")[0] in LIBRARIES
        if library and not function.__closure__:
            return function
        if not library and _is_wrapped_library(function):
            return function
        cells = tuple(types.CellType() for _ in function.__closure__ or ())
        space = function.__globals__ if library else dict(function.__globals__)
        made = types.FunctionType(
            function.__code__, space, function.__name__, function.__defaults__, cells or None
        )
        made.__dict__.update(function.__dict__)
        made.__module__, made.__qualname__ = function.__module__, function.__qualname__
        self._rebuilt[id(function)] = made
        self._kept.append(function)
        for name, cell, old in zip(
            function.__code__.co_freevars, cells, function.__closure__ or (), strict=True
        ):
            try:
                content = old.cell_contents
            except ValueError:  # not filled yet
                continue
            cell.cell_contents = self._value(name, content, depth + 1)
        if not library:
            self._globals(function, space, depth)
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        made.__defaults__ = self._defaults(names, function.__defaults__, depth)
        if function.__kwdefaults__:
            made.__kwdefaults__ = {
                name: self._value(name, value, depth + 1)
                for name, value in function.__kwdefaults__.items()
            }
        return made

    def _defaults(
        self, names: tuple[str, ...], defaults: tuple[Any, ...] | None, depth: int
    ) -> tuple[Any, ...] | None:
        if not defaults:
            return None
        last = names[len(names) - len(defaults) :]
        pairs = zip(last, defaults, strict=True)
        return tuple(self._value(name, value, depth + 1) for name, value in pairs)

    def _globals(self, function: types.FunctionType, space: dict[str, Any], depth: int) -> None:
        """Numbers, tensors and functions among the globals that the code names."""
        for name in dict.fromkeys(_names(function.__code__)):
            if name in space and not name.startswith("__"):
                space[name] = self._value(name, space[name], depth + 1)
        if "range" not in space:
            space["range"] = self._range

    def _range(self, *bounds: Any) -> range:
        """`range` that takes note of whose value it was given."""
        return builtins.range(*(self.book.plain(bound) for bound in bounds))


def _names(code: types.CodeType) -> Iterator[str]:
    """The global names of a code and of those inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _word(key: Any, name: str) -> str:
    return key if isinstance(key, str) and key.isidentifier() else f"{name}_{key}"


def _is_wrapped_library(function: types.FunctionType) -> bool:
    """Whether a function's text is a library's, though it says otherwise of its module."""
    path = function.__code__.co_filename
    return "/torch/" in path or "/numpy/" in path
