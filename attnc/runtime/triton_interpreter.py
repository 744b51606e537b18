"""Triton's interpreter, which runs the kernels on the CPU for tests, where it needs mending."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def interpreter_mended() -> Iterator[None]:
    """Triton's interpreter as it should be: loops to a bound held in an array of one entry, which
    NumPy 2.4 does not turn into an int; numbers as float64, as the kernels declare them; truths of
    reals that stay truths when they are spread over a tile; products of bfloat16, which it stores
    as integers, of what the bits mean. (It multiplies 16-bit operands in float32, as a GPU does,
    but in NumPy's order of summation.)"""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    patch, convert = interpreter._patch_lang_tensor, interpreter._implicit_cvt
    builder = interpreter.InterpreterBuilder
    splat, dot = builder.create_splat, builder.create_dot

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def converted(value: Any) -> Any:
        if isinstance(value, float):
            handle = interpreter.TensorHandle(np.array([value], dtype=np.float64), tl.float64)
            return tl.tensor(handle, tl.float64)
        return convert(value)

    def spread(self: Any, type_: Any, value: Any) -> Any:
        if value.data.dtype != np.bool_:
            return splat(self, type_, value)
        return interpreter.TensorHandle(np.full(type_.shape, value.data.item()), tl.int1)

    def widened(operand: Any) -> Any:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        data = (operand.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(data, tl.float32)

    def product(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, widened(a), widened(b), *rest)

    interpreter._patch_lang_tensor, interpreter._implicit_cvt = patched, converted
    builder.create_splat, builder.create_dot = spread, product
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        interpreter._patch_lang_tensor, interpreter._implicit_cvt = patch, convert
        builder.create_splat, builder.create_dot = splat, dot
