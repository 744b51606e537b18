"""Traces a mod: it runs once, on symbolic tensors, and what it computes is a term.

A `Traced` is a tensor without data. While the mod runs, a mode sees every function of PyTorch
before PyTorch does: those that get no traced tensor run as they are, the others are looked up by
name in `functions`. Shapes and dtypes are PyTorch's own, of the same call on the meta device.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from attnc.flex.captured import Captured
from attnc.flex.failures import INSIDE, TraceError, refuse
from attnc.flex.symbols import Book, Symbol, bare
from attnc.flex.terms import Dim, Kind, Table, Term, Terms

UNKNOWN = "its value is not known while tracing, and equations have no control flow"
DEVICES = ("cpu", "cuda")
QUERIES = ("dim", "ndimension", "size", "numel", "nelement", "is_floating_point", "__len__")
CONTROL = {
    "__bool__": "if or while", "__int__": "int", "__float__": "float", "__index__": "an index",
    "item": "Tensor.item", "tolist": "Tensor.tolist", "numpy": "Tensor.numpy",
    "__array__": "numpy", "__contains__": "in", "__complex__": "complex",
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A term with the dimensions that it leaves free."""

    term: Term
    dims: tuple[Dim, ...] = ()


class Traced(torch.Tensor):
    """A tensor without data, standing for a term."""

    tracer: Tracer
    value: Value
    held_dtype: torch.dtype

    @staticmethod
    def make(tracer: Tracer, value: Value, dtype: torch.dtype) -> Traced:
        shape = tuple(dim.size for dim in value.dims)
        made: Traced = torch.Tensor._make_wrapper_subclass(
            Traced, shape, dtype=dtype, device=tracer.device
        )
        made.tracer, made.value, made.held_dtype = tracer, value, dtype
        return made

    def __radd__(self, other: Any) -> Any:
        return self.tracer.turned("add", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.tracer.turned("mul", self, other)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Traced)]
        return found[0].tracer.call(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise refuse(str(func), "it is not a function that the language has")


class Mode(TorchFunctionMode):
    """Shows every call of PyTorch to the tracer."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.tracer.call(func, args, kwargs or {})


class Tracer:
    """One trace of a score_mod and a mask_mod: terms, tables and names."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self.functions = dict(functions or {})
        self.terms = Terms()
        self.book = Book(self.terms)
        self.captured = Captured(self.book)
        self.tables: dict[int, Table] = {}
        self.tensors: dict[Table, torch.Tensor] = {}
        self.same: list[tuple[tuple[Table, int], tuple[Table, int]]] = []
        self.names: dict[Term, str] = {}  # local variables of the mods
        self.device = torch.device("cpu")

    # --- running a mod ------------------------------------------------------------------------

    def run(self, mod: Callable[..., Any], what: str, arguments: Sequence[Traced]) -> Term:
        """What a mod gives at one point."""
        made = self.captured.rebuilt(mod)
        self.device = self.captured.device or self.device
        before = _random_state()
        with Mode(self), _Locals(self):
            result = made(*arguments)
        if _random_state() != before:
            raise TraceError(_title(mod), "it draws random numbers: no two calls would agree")
        if isinstance(result, (bool, int, float)):
            return self.operand(result).term
        if not isinstance(result, torch.Tensor):
            raise TraceError(_title(mod), f"a {what} returns a tensor, not {_kind_of(result)}")
        value = self.operand(result)
        if any(dim.size != 1 for dim in value.dims):
            shape = tuple(dim.size for dim in value.dims)
            raise TraceError(_title(mod), f"a {what} gives one value a point, this a shape {shape}")
        return self.at_zero(value)

    def index(self, name: str) -> Traced:
        """b, h, i or j."""
        term = self.terms.make("index", value=name, kind="int")
        return Traced.make(self, Value(term), torch.int64)

    def score(self) -> Traced:
        """The scaled product."""
        return Traced.make(self, Value(self.terms.make("score", kind="real")), torch.float32)

    # --- values ---------------------------------------------------------------------------------

    def operand(self, given: Any) -> Value:
        """The term of an argument: traced, a tensor, a number."""
        if isinstance(given, Traced):
            return given.value
        if isinstance(given, Symbol):
            return Value(given.term)
        if isinstance(given, torch.Tensor):
            table = self.table(given)
            dims = tuple(Dim(size, (table, n)) for n, size in enumerate(table.shape))
            return Value(self.read(table, [self.position(dim) for dim in dims]), dims)
        if isinstance(given, (bool, int, float)):
            return Value(self.terms.number(given))
        raise refuse(_kind_of(given), "it is no tensor and no number")

    def table(self, tensor: torch.Tensor) -> Table:
        """The table that a captured tensor is."""
        if id(tensor) not in self.tables:
            kind: Kind = (
                "bool"
                if tensor.dtype is torch.bool
                else "real"
                if tensor.is_floating_point()
                else "int"
            )
            if tensor.is_complex():
                raise refuse("a complex tensor", "scores and masks are real")
            name = self.captured.names.get(id(tensor), "table")
            table = Table(name, kind, tuple(tensor.shape), len(self.tables))
            self.tables[id(tensor)] = table
            self.tensors[table] = tensor
        return self.tables[id(tensor)]

    def read(self, table: Table, positions: Sequence[Term]) -> Term:
        """An entry of a table; a constant position below 0 counts from the end."""
        at = []
        for place, position in enumerate(positions):
            if position.op == "number" and isinstance(position.value, int) and position.value < 0:
                position = self.terms.number(position.value + table.shape[place])
            at.append(position)
        return self.terms.make("read", *at, value=table, kind=table.kind)

    def position(self, dim: Dim) -> Term:
        """The free position of a dimension."""
        return self.terms.make("dim", value=dim, kind="int")

    def at(self, term: Term, dim: Dim, position: Term) -> Term:
        """A term at one position of a dimension."""
        return self.terms.replaced(term, {self.position(dim): position})

    def at_zero(self, value: Value) -> Term:
        """The term of a value whose dimensions are all of length 1."""
        term = value.term
        for dim in value.dims:
            term = self.at(term, dim, self.terms.number(0))
        return term

    def broadcast(self, values: Sequence[Value]) -> tuple[list[Term], tuple[Dim, ...]]:
        """The terms over common dimensions."""
        rank = max((len(value.dims) for value in values), default=0)
        terms = [value.term for value in values]
        shared: list[Dim] = []
        for place in range(-rank, 0):
            column = [v.dims[place] if len(v.dims) >= -place else None for v in values]
            wide = [dim for dim in column if dim is not None and dim.size != 1]
            kept = wide[0] if wide else next(dim for dim in column if dim is not None)
            shared.append(kept)
            for n, dim in enumerate(column):
                if dim is None or dim is kept:
                    continue
                if dim.size == 1:
                    terms[n] = self.at(terms[n], dim, self.terms.number(0))
                    continue
                terms[n] = self.at(terms[n], dim, self.position(kept))
                if dim.home is not None and kept.home is not None:
                    self.same.append((kept.home, dim.home))
        return terms, tuple(shared)

    # --- calls ----------------------------------------------------------------------------------

    def call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One call of PyTorch in a mod."""
        leaves = tree_flatten((args, kwargs))[0]
        if not any(isinstance(leaf, Traced) for leaf in leaves):
            return self._untraced(func, args, kwargs, leaves)
        from attnc.flex.functions import resolve

        name, handler = resolve(func)
        if name in CONTROL:
            raise refuse(CONTROL[name], UNKNOWN)
        if name == "__get__":
            return self._attribute(func, args)
        if name in ("__repr__", "__str__", "__format__"):
            return "<traced>"
        if name in QUERIES:
            return self.meta(func, args, kwargs)
        if name in self.functions:
            return self.functions[name](*args, **kwargs)
        if handler is None:
            way = f'; say it in PyTorch: functions={{"{name}": ...}}' if "::" in name else ""
            raise refuse(name, f"the language has no such function{way}")
        fresh = Traced not in map(type, args[:1])
        if name in IN_PLACE or (name.endswith("_") and not name.endswith("__")):
            if fresh:
                raise refuse(name, "a mod may not change what it captures")
            result = self._computed(handler, func, args, kwargs)
            args[0].value = result.value
            return args[0]
        return self._computed(handler, func, args, kwargs)

    def _computed(self, handler: Any, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        shapes = self.meta(func, args, kwargs)
        made = handler(self, *args, **kwargs)
        if not isinstance(made, Value):  # several results, in the order of PyTorch's
            outputs = [Traced.make(self, v, s.dtype) for v, s in zip(made, shapes, strict=True)]
            return type(shapes)(outputs) if type(shapes) in (tuple, list) else tuple(outputs)
        return Traced.make(self, made, shapes.dtype)

    def meta(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The same call on the meta device: PyTorch's shapes, dtypes and mistakes."""

        def shadow(leaf: Any) -> Any:
            if isinstance(leaf, Traced):
                sizes = [dim.size for dim in leaf.value.dims]
                return torch.empty(sizes, dtype=leaf.held_dtype, device="meta")
            if isinstance(leaf, torch.Tensor):
                return torch.empty_like(leaf, device="meta", requires_grad=False)
            if isinstance(leaf, torch.device) or (isinstance(leaf, str) and leaf in DEVICES):
                return torch.device("meta")
            return bare(leaf)

        if func is torch.Tensor.__getitem__:  # a scalar of meta is no index: the dtype is enough
            return shadow(args[0])
        return func(*tree_map(shadow, args), **tree_map(shadow, kwargs))

    def turned(self, name: str, right: Traced, left: Any) -> Any:
        """`left op right` where Python asks the right side: the order of the text is kept."""
        from attnc.flex.table import TABLE

        dtype = self.meta(getattr(torch, name), (right, left), {}).dtype
        return Traced.make(self, TABLE[f"r{name}"](self, right, left), dtype)

    def _untraced(self, func: Any, args: Any, kwargs: dict[str, Any], leaves: list[Any]) -> Any:
        name = getattr(func, "__name__", "")
        mine = [leaf for leaf in leaves if id(leaf) in self.captured.names]
        if mine and (name in IN_PLACE or (name.endswith("_") and not name.endswith("__"))):
            raise refuse(name, "a mod may not change what it captures")
        before = _random_state()
        result = func(*tree_map(self.book.plain, args), **tree_map(self.book.plain, kwargs))
        if _random_state() != before:
            raise refuse(f"torch.{name}", "it draws random numbers: no two calls would agree")
        if isinstance(result, torch.Tensor) and mine:
            self.captured.names.setdefault(id(result), self.captured.names[id(mine[0])])
            self.captured._kept.append(result)
        return result

    def _attribute(self, func: Any, args: Any) -> Any:
        name = getattr(func.__self__, "__name__", "")
        if name == "device":
            return self.device
        if name in ("T", "mT") and len(args[0].value.dims) < 2:
            return args[0]
        found = getattr(self.meta(torch.Tensor.detach, args[:1], {}), name)
        if isinstance(found, torch.Tensor):
            raise refuse(f"Tensor.{name}", "the language has no such function")
        return found


IN_PLACE = frozenset(
    f"__i{name}__"
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "and", "or", "xor", "pow")
) | {"__setitem__"}


def _random_state() -> tuple[Any, ...]:
    return bytes(torch.get_rng_state().numpy()), random.getstate()


class _Locals:
    """Remembers what the mod's functions called their traced values, when they return."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.before: Any = None

    def __enter__(self) -> None:
        self.before = sys.getprofile()
        sys.setprofile(self._event)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self.before)

    def _event(self, frame: Any, event: str, _: Any) -> None:
        if event != "return" or any(part in frame.f_code.co_filename for part in INSIDE):
            return
        outermost = frame.f_back is not None and frame.f_back.f_code.co_name == "run"
        for name, value in frame.f_locals.items():
            if isinstance(value, Traced):
                term = value.value.term
            elif isinstance(value, Symbol):
                term = value.term
                if term.size < 2:
                    continue
            else:
                continue
            if outermost or term not in self.tracer.names:
                self.tracer.names[term] = name


def _title(mod: Any) -> str:
    return str(getattr(mod, "__qualname__", None) or type(mod).__name__)


def _kind_of(given: Any) -> str:
    return type(given).__name__
