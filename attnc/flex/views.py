"""Reads, views and folds of traced values: whatever changes the dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from attnc.flex.failures import refuse
from attnc.flex.symbols import Symbol
from attnc.flex.table import TABLE, enter
from attnc.flex.terms import Dim, Kind, Term
from attnc.flex.trace import Traced, Tracer, Value

# --- reads ----------------------------------------------------------------------------------------


def read(tracer: Tracer, x: Any, index: Any) -> Value:
    """`x[a, b, :, None]`: scalar positions, whole dimensions and slices with known ends."""
    items = list(index) if isinstance(index, (tuple, list)) else [index]
    value = tracer.operand(x)
    if any(isinstance(i, torch.Tensor) and i.dtype is torch.bool for i in items):
        raise refuse("Tensor.__getitem__", "a selection by truths has a length that data decide")
    fixed = sum(1 for item in items if item is not None and item is not Ellipsis)
    if Ellipsis in [item for item in items if not isinstance(item, torch.Tensor)]:
        place = next(n for n, item in enumerate(items) if item is Ellipsis)
        items[place : place + 1] = [slice(None)] * (len(value.dims) - fixed)
    items += [slice(None)] * (len(value.dims) - sum(1 for item in items if item is not None))
    places = [n for n, item in enumerate(items) if _is_position(item)]
    given = [tracer.operand(items[n]) for n in places]
    terms, shared = tracer.broadcast(given)
    if shared and places[-1] - places[0] + 1 != len(places):
        raise refuse("Tensor.__getitem__", "vectors of positions stand apart from one another")
    term, dims, source = value.term, [], iter(value.dims)
    for n, item in enumerate(items):
        if item is None:
            dims.append(Dim(1))
            continue
        dim = next(source)
        if n in places:
            position = _wrapped(tracer, terms[places.index(n)], dim.size)
            term = tracer.at(term, dim, position)
            if n == places[0]:
                dims += shared
            continue
        term, dim = _sliced(tracer, term, dim, item)
        dims.append(dim)
    return Value(term, tuple(dims))


TABLE["getitem"] = read


def _is_position(item: Any) -> bool:
    return isinstance(item, (torch.Tensor, int)) and not isinstance(item, bool)


def _wrapped(tracer: Tracer, position: Term, size: int) -> Term:
    """A constant below 0 counts from the end."""
    if position.op == "number" and isinstance(position.value, int) and position.value < 0:
        return tracer.terms.number(position.value + size)
    return position


def _sliced(tracer: Tracer, term: Term, dim: Dim, item: Any) -> tuple[Term, Dim]:
    if not isinstance(item, slice):
        raise refuse("Tensor.__getitem__", f"an index of {type(item).__name__} is not followed")
    bounds = (item.start, item.stop, item.step)
    if any(isinstance(bound, torch.Tensor) for bound in bounds):
        raise refuse("Tensor.__getitem__", "a slice with traced ends has a length that varies")
    start, stop, step = slice(*map(tracer.book.plain, bounds)).indices(dim.size)
    kept = Dim(max(stop - start, 0))
    if step != 1:
        raise refuse("Tensor.__getitem__", "a slice has a step")
    if kept.size == dim.size:
        return term, dim
    moved = tracer.terms.arithmetic("add", tracer.position(kept), tracer.terms.number(start))
    return tracer.at(term, dim, moved), kept


@enter("index")
def index(tracer: Tracer, x: Any, indices: Sequence[Any]) -> Value:
    return read(tracer, x, tuple(slice(None) if i is None else i for i in indices))


@enter("embedding")
def embedding(tracer: Tracer, x: Any, y: Any, **_: Any) -> Value:
    """F.embedding takes the positions first, the operator of ATen the table."""
    table, at = (y, x) if isinstance(x, Traced) else (x, y)
    return read(tracer, table, at)


def select(tracer: Tracer, x: Any, dim: int, index: Any) -> Value:
    rank = len(tracer.operand(x).dims)
    return read(tracer, x, (*[slice(None)] * (dim % rank), index))


TABLE["select"] = select


@enter("unbind", "iter")
def unbind(tracer: Tracer, x: Any, dim: int = 0) -> tuple[Value, ...]:
    return tuple(select(tracer, x, dim, n) for n in range(tracer.operand(x).dims[dim].size))


# --- views ----------------------------------------------------------------------------------------


@enter("unsqueeze")
def unsqueeze(tracer: Tracer, x: Any, dim: int) -> Value:
    value = tracer.operand(x)
    place = dim % (len(value.dims) + 1)
    return Value(value.term, (*value.dims[:place], Dim(1), *value.dims[place:]))


@enter("squeeze")
def squeeze(tracer: Tracer, x: Any, dim: int | None = None) -> Value:
    value = tracer.operand(x)
    rank = len(value.dims)
    places = range(rank) if dim is None else (dim % rank,) if rank else ()
    gone = [n for n in places if value.dims[n].size == 1]
    term = value.term
    for n in gone:
        term = tracer.at(term, value.dims[n], tracer.terms.number(0))
    return Value(term, tuple(d for n, d in enumerate(value.dims) if n not in gone))


@enter("view", "reshape", "flatten", "expand", "expand_as", "view_as", "reshape_as")
def view(tracer: Tracer, x: Any, *shape: Any, **_: Any) -> Value:
    """Views that only add or drop dimensions of length 1."""
    value = tracer.operand(x)
    kept = squeeze(tracer, x)
    wanted = shape[0] if shape and isinstance(shape[0], (tuple, list)) else shape
    wanted = wanted[0].shape if len(wanted) == 1 and isinstance(wanted[0], torch.Tensor) else wanted
    sizes = [tracer.book.plain(size) for size in wanted] or [-1]
    known = [dim.size for dim in kept.dims]
    if [size for size in sizes if size not in (1, -1)] not in (known, known[1:], known[:-1]):
        raise refuse("Tensor.view", "only dimensions of length 1 may come and go")
    source = list(kept.dims)
    made = [Dim(1) if size == 1 or not source else source.pop(0) for size in sizes]
    if source:
        raise refuse("Tensor.view", "dimensions are not joined")
    return Value(kept.term if value.dims else value.term, tuple(made))


@enter("permute", "transpose", "swapaxes", "t")
def permute(tracer: Tracer, x: Any, *order: Any) -> Value:
    value = tracer.operand(x)
    rank = len(value.dims)
    if not order:
        return Value(value.term, value.dims[::-1])
    plain = [n % rank for n in (order[0] if isinstance(order[0], (tuple, list)) else order)]
    if len(plain) == 2 and (rank != 2 or sorted(plain) != [0, 1]):
        places = list(range(rank))
        places[plain[0]], places[plain[1]] = places[plain[1]], places[plain[0]]
        plain = places
    elif len(plain) == 2:
        plain = plain if plain == [1, 0] else [1, 0]
    return Value(value.term, tuple(value.dims[n] for n in plain))


# --- folds ----------------------------------------------------------------------------------------


def _fold(name: str, truth: bool = False) -> Callable[..., Any]:
    def handler(tracer: Tracer, x: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> Value:
        value = tracer.operand(x)
        rank = len(value.dims)
        given = range(rank) if dim is None else dim if isinstance(dim, (tuple, list)) else (dim,)
        places = {tracer.book.plain(n) % rank for n in given} if rank else set()
        terms = tracer.terms
        term = terms.truth(value.term) if truth else terms.counted(value.term)
        for n in sorted(places):
            kind: Kind = "bool" if truth else "real" if name == "mean" else term.kind
            term = terms.make("fold", term, value=value.dims[n], kind=kind, name=name)
        left = [d for n, d in enumerate(value.dims) if n not in places]
        if keepdim:
            left = [Dim(1) if n in places else d for n, d in enumerate(value.dims)]
        return Value(term, tuple(left))

    return handler


for _name in ("any", "all"):
    enter(_name)(_fold(_name, truth=True))
for _name in ("sum", "mean", "prod"):
    enter(_name)(_fold(_name))
enter("amax")(_fold("max"))
enter("amin")(_fold("min"))


def _extreme(name: str) -> Callable[..., Any]:
    def handler(tracer: Tracer, x: Any, other: Any = None, **more: Any) -> Any:
        if other is None and not more:
            return _fold(name)(tracer, x)
        if isinstance(other, (torch.Tensor, *Symbol)):
            return TABLE[f"{name}imum"](tracer, x, other)
        raise refuse(f"torch.{name}", f"use torch.a{name}, which gives no positions")

    return handler


enter("max")(_extreme("max"))
enter("min")(_extreme("min"))


@enter("dot", "inner", "vdot", "matmul")
def dot(tracer: Tracer, x: Any, y: Any) -> Value:
    """The product of two vectors."""
    terms, dims = tracer.broadcast([tracer.operand(x), tracer.operand(y)])
    if len(dims) != 1 or len(tracer.operand(x).dims) != 1 or len(tracer.operand(y).dims) != 1:
        raise refuse("torch.matmul", "only products of two vectors are followed")
    product = tracer.terms.arithmetic("mul", *map(tracer.terms.counted, terms))
    return Value(tracer.terms.make("fold", product, value=dims[0], kind=product.kind, name="sum"))
