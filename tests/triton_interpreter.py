"""Triton's interpreter in half its time: imported before kernels run in it.

It exchanges the names of `triton.language` for its own when a kernel is launched, and all of them
again for every call of a helper inside the kernel. Here it does so once a launch for each module
whose functions are called."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton
import triton.language as tl
from triton.runtime import interpreter

_exchange = interpreter._patch_lang
_launch = interpreter.GridExecutor.__call__
_known: set[int] = set()  # namespaces of functions, in the launch that runs


def exchange_once(function: Any) -> Any:
    """The scope that takes the names back; an empty one where they are exchanged already."""
    if id(function.__globals__) in _known:
        return interpreter._LangPatchScope()
    _known.add(id(function.__globals__))
    return _exchange(function)


def launch(self: Any, *args: Any, **kwargs: Any) -> Any:
    _known.clear()
    return _launch(self, *args, **kwargs)


if hasattr(interpreter, "_LangPatchScope"):  # Triton 3.6
    interpreter._patch_lang = exchange_once
    interpreter.GridExecutor.__call__ = launch


def ordered_product(
    self: Any, left: Any, right: Any, total: Any, precision: Any, imprecise: Any
) -> Any:
    """A product of two tiles, each entry summed along the width in order, as a GPU does it: pairs
    that a loop over rows and one over keys compute are the same bits then. (NumPy's order depends
    on the shapes of the tiles.)"""
    a, b = left.data, right.data
    if total.data.dtype != np.float32 or a.dtype != np.float32 or a.size > MOST_ORDERED:
        return _product(self, left, right, total, precision, imprecise)
    terms = a.T[:, :, None] * b[:, None, :]
    return interpreter.TensorHandle(total.data + np.add.reduce(terms), total.dtype.scalar)


def scan_in_steps(self: Any, given: Any) -> Any:
    """A scan as a GPU may do it: stretches of rows that double are combined, all at once."""
    parts = [one.handle.data for one in given]
    rows = np.arange(parts[0].shape[self.axis])
    for reach in (1 << step for step in range(len(rows).bit_length() - 1)):
        before = [np.take(part, np.maximum(rows - reach, 0), self.axis) for part in parts]
        sides = zip((*before, *parts), (*given, *given), strict=True)
        made = self.combine_fn.fn(*(self.to_tensor(part, one.dtype) for part, one in sides))
        both = zip(parts, made if isinstance(made, tuple) else (made,), strict=True)
        far = (rows >= reach).reshape([-1 if d == self.axis else 1 for d in range(parts[0].ndim)])
        parts = [np.where(far, one.handle.data, part) for part, one in both]
    return [self.to_tensor(part, one.dtype) for part, one in zip(parts, given, strict=True)]


interpreter.ScanOps.generic_scan = scan_in_steps
MOST_ORDERED = 128 * 128
_product = interpreter.InterpreterBuilder.create_dot
interpreter.InterpreterBuilder.create_dot = ordered_product


# --- what a tile costs beside NumPy --------------------------------------------------------------
#
# Every tensor of the interpreter makes its type and its shape anew, as objects of several layers,
# and looks up dtypes in a table that is built for the look-up. Here they are made once for each
# sizes and dtype; what they are is Triton's own.

core = tl.core


def unwrapped(one: Any) -> Any:
    kind = type(one)
    if kind is core.constexpr:
        return one.value
    return _unwrapped(one) if kind in (list, tuple, core.tuple) else one


def same_dtype(self: Any, other: Any) -> bool:
    return self is other or _same_dtype(self, other)


def new_block(self: Any, element_ty: Any, shape: Any) -> None:
    if type(shape) not in (list, tuple, core.tuple):
        return _new_block(self, element_ty, shape)
    sizes = tuple([one.value if type(one) is core.constexpr else one for one in shape])
    key = (sizes, element_ty.name)
    known = _blocks.get(key)
    if known is None:
        _new_block(self, element_ty, shape)
        _blocks[key] = (self.shape, self.numel, self.name)
        return None
    self.element_ty = element_ty
    self.shape, self.numel, self.name = known
    return None


def new_tensor(self: Any, handle: Any, type: Any) -> None:
    sizes = tuple(type.shape.values) if isinstance(type, core.block_type) else ()
    known = _shapes.get(sizes)
    if known is None:
        _new_tensor(self, handle, type)
        _shapes[sizes] = (self.shape, self.numel)
        return
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.shape, self.numel = known


def same_values(self: Any, other: Any) -> Any:
    if type(other) is not list:
        return _same_values(self, other)
    return core.constexpr(self.values == [unwrapped(one) for one in other])


def np_dtype(kind: Any) -> Any:
    name = kind.name
    if name not in _dtypes:
        _dtypes[name] = _np_dtype(kind)
    return _dtypes[name]


_blocks: dict[Any, Any] = {}  # by sizes and element: shape, number of entries, name
_shapes: dict[tuple[int, ...], Any] = {}
_dtypes: dict[str, Any] = {}
if triton.__version__.startswith("3.6."):
    _unwrapped, core._unwrap_if_constexpr = core._unwrap_if_constexpr, unwrapped
    _same_dtype, core.dtype.__eq__ = core.dtype.__eq__, same_dtype
    _new_block, core.block_type.__init__ = core.block_type.__init__, new_block
    _new_tensor, core.tensor.__init__ = core.tensor.__init__, new_tensor
    _same_values, core.tuple.__eq__ = core.tuple.__eq__, same_values
    _np_dtype, interpreter._get_np_dtype = interpreter._get_np_dtype, np_dtype
    # Sums that leave their integers: computed beside each sum, and told in debug mode alone.
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(
        sanitize_overflow=False
    )
