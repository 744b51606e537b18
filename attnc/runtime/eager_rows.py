"""Rows taken from a dimension and sums of rows by group, the transposes of each other.

Under torch.compile the sums are an operator of torch.library. Where inductor writes them itself,
from an index_add, a scatter or the derivative of a read, it adds beyond the end of the result in
tiles of two dimensions (torch 2.13 on the CPU).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rows_at(x: Tensor, at: Tensor, dim: int) -> Tensor:
    """The rows `at` of a dimension: [n], or of the rank of x and then each with rows of its own."""
    if torch.compiler.is_compiling():
        taken: Tensor = RowsAt.apply(x, at, dim)  # type: ignore[no-untyped-call]
        return taken
    return _rows_at(x, at, dim)


def sums_by_group(x: Tensor, group: Tensor, count: int, dim: int) -> Tensor:
    """The sums over a dimension by group, `count` of them in its place. group: as `at` of rows."""
    if torch.compiler.is_compiling():
        found: Tensor = SumsByGroup.apply(x, group, count, dim)  # type: ignore[no-untyped-call]
        return found
    return _sums_by_group(x, group, count, dim)


def _rows_at(x: Tensor, at: Tensor, dim: int) -> Tensor:
    return x.index_select(dim, at) if at.ndim == 1 else x.gather(dim, at)


def _sums_by_group(x: Tensor, group: Tensor, count: int, dim: int) -> Tensor:
    result = _no_sums(x, group, count, dim)
    if group.ndim == 1:
        return result.index_add(dim, group, x)
    return result.scatter_add(dim, group, x)


def _no_sums(x: Tensor, group: Tensor, count: int, dim: int) -> Tensor:
    shape = list(x.shape)
    shape[dim] = count
    return x.new_zeros(shape)


def _sums_operator() -> Any:
    """The operator, defined once a process, whichever module comes first."""
    operators: Any = torch.ops.attnc
    if not hasattr(operators, "sums_by_group"):
        library: Any = torch.library.Library("attnc", "FRAGMENT")  # type: ignore[no-untyped-call]
        library.define("sums_by_group(Tensor x, Tensor group, SymInt count, int dim) -> Tensor")
        library.impl("sums_by_group", _sums_by_group, "CompositeExplicitAutograd")
        torch.library.register_fake("attnc::sums_by_group", _no_sums, lib=library)
        # torch forgets an operator with its library: this one stays for every module.
        operators.library_of_sums = library
    return operators.sums_by_group


SUMS_BY_GROUP = _sums_operator()


class RowsAt(torch.autograd.Function):
    """Rows taken, without forward mode; their derivative is sums by group."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(at)
        ctx.size, ctx.dim = x.shape[dim], dim
        return _rows_at(x, at, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (at,) = ctx.saved_tensors
        return SUMS_BY_GROUP(gradient, at, ctx.size, ctx.dim), None, None


class SumsByGroup(torch.autograd.Function):
    """Sums by group, without forward mode; their derivative takes rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Tensor, count: int, dim: int) -> Tensor:
        ctx.save_for_backward(group)
        ctx.dim = dim
        found: Tensor = SUMS_BY_GROUP(x, group, count, dim)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (group,) = ctx.saved_tensors
        return _rows_at(gradient, group, ctx.dim), None, None, None
