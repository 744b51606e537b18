"""The call of an operator: arguments are bound to its signature and checked.

Binding checks names, dtypes, devices, shapes and ranges, and says which argument is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from operator import index as index_of
from typing import Any

import torch

from attnc.runtime.failures import (
    ArgumentMissing,
    ArgumentUnknown,
    DeviceError,
    DtypeError,
    ShapeError,
    ValueRangeError,
)
from attnc.runtime.slots import EXTRA_KEYWORDS, Call, NumberSlot, Signature, TensorSlot

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
# How a tensor of another kind becomes what an input of a dtype takes.
CASTS = {
    "query": ".float()", "real": ".float()", "accumulate": ".float()", "int": ".long()",
    "bool": " != 0",
}  # fmt: skip
# What torch.compile passes in the place of a number that it does not fix.
SYMBOLIC: dict[str, Any] = {"int": torch.SymInt, "real": torch.SymFloat, "bool": torch.SymBool}


def bind_arguments(
    signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Sorts arguments by place and name into (tensors, numbers, extras); missing optional ones are
    absent."""
    given = dict(zip((t.name for t in signature.inputs if t.positional), args, strict=False))
    places = sum(tensor.positional for tensor in signature.inputs)
    if len(args) > places:
        raise ArgumentUnknown(
            signature.name,
            f"#{places + 1}",
            by_place(t.name for t in signature.inputs if t.positional),
            str(len(args)),
        )
    for name, value in kwargs.items():
        if name in given:
            raise ArgumentUnknown(signature.name, name, "it once", "it by place and by name")
        given[name] = value
    tensors = {t.name: given.pop(t.name) for t in signature.inputs if given.get(t.name) is not None}
    numbers = {
        n.name: given.pop(n.name) for n in signature.numbers if given.get(n.name) is not None
    }
    extras = {
        name: given.pop(name)
        for name in EXTRA_KEYWORDS
        if name in given and name != "emit" and signature.takes(name)
    }
    optional = {t.name for t in signature.inputs} | {n.name for n in signature.numbers}
    for name in [name for name, value in given.items() if not (value is None and name in optional)]:
        if name in dict(signature.statics):
            expected = f"it at compile time: attnc.compile(..., {name}={given[name]!r})"
            raise ArgumentUnknown(signature.name, name, expected, "a static at the call")
        raise ArgumentUnknown.among(signature.name, name, signature.keywords)
    for tensor in signature.inputs:
        if tensor.name not in tensors and not tensor.optional:
            axes = ", ".join(tensor.axes)
            raise ArgumentMissing(signature.name, tensor.name, f"a tensor [{axes}]")
    for number in signature.numbers:
        if number.name not in numbers and not number.optional:
            raise ArgumentMissing(signature.name, number.name, f"a number ({number.kind})")
    return tensors, numbers, extras


def by_place(names: Iterable[str]) -> str:
    """What a call takes by place, in an error."""
    found = list(names)
    return f"{len(found)} by place ({', '.join(found)}), the others by name"


def check_call(
    signature: Signature,
    tensors: dict[str, Any],
    numbers: dict[str, Any],
    extras: dict[str, Any],
) -> Call:
    """The call of these arguments, checked whole."""
    known: dict[str, Any] = dict(signature.statics)
    for number in signature.numbers:
        if number.name in numbers:
            known[number.name] = check_number(signature, number, numbers[number.name])
    dtype, device = _check_dtypes(signature, tensors, extras.get("dtype"))
    measure_axes(signature, tensors, known)
    _derive(signature, tensors, known)
    for tensor in signature.inputs:
        if tensor.name in tensors:
            _check_shape(signature, tensor, tensors[tensor.name], known)
    _check_requirements(signature, known)
    call = Call(signature, dict(tensors), known, 0, 0, None, 0, dtype, device, frozenset(tensors))
    _fill_defaults(call)
    batch = known.get("len_b", 1)
    call.offset = _check_shift(signature, "offset", extras.get("offset", 0), batch, device)
    call.key_offset = _check_shift(
        signature, "key_offset", extras.get("key_offset", 0), batch, device
    )
    if extras.get("key_length") is not None:
        call.key_length = _check_key_length(signature, extras["key_length"], known, batch, device)
    call.seed = check_seed(signature, extras.get("seed", 0))
    return call


def _check_requirements(signature: Signature, known: dict[str, Any]) -> None:
    """What lengths and numbers must satisfy together. Symbolic ones pass: asking them would bind
    the traced program to the answer, and its kernels ask when they run."""
    if any(isinstance(value, (torch.SymInt, torch.SymFloat)) for value in known.values()):
        return
    for holds, message, argument, names in signature.requirements(known):
        if not holds:
            came = ", ".join(f"{_worded(name)} = {known[name]}" for name in names)
            raise ValueRangeError(signature.name, argument, message, came)


def _worded(name: str) -> str:
    """`len_i` as a reader says it."""
    return f"length of {name.removeprefix('len_')}" if name.startswith("len_") else name


def check_seed(signature: Signature, seed: Any) -> Any:
    """The seed of a call."""
    if not isinstance(seed, (int, torch.SymInt)) or isinstance(seed, bool):
        raise DtypeError(signature.name, "seed", "an int", type(seed).__name__)
    if isinstance(seed, int) and not -(2**63) <= seed < 2**63:
        raise ValueRangeError(signature.name, "seed", "an int of 64 bits", str(seed))
    return seed


def check_number(signature: Signature, number: NumberSlot, value: Any) -> Any:
    """A number of its kind, finite and within 62 bits; symbolic ones of torch.compile pass."""
    if isinstance(value, SYMBOLIC[number.kind]):
        return value
    if isinstance(value, torch.Tensor):
        expected = f"a Python number ({number.kind})"
        raise DtypeError(signature.name, number.name, expected, "a tensor; pass value.item()")
    if number.kind == "bool":
        if not isinstance(value, bool):
            raise DtypeError(signature.name, number.name, "True or False", shown(value))
        return value
    convert = index_of if number.kind == "int" else float
    try:
        if isinstance(value, (bool, str, bytes)):
            raise TypeError
        if number.kind != "int" or not isinstance(value, int):
            value = convert(value)
    except OverflowError:
        value = math.inf
    except (TypeError, ValueError):
        expected = f"a number ({number.kind})"
        raise DtypeError(signature.name, number.name, expected, shown(value)) from None
    if number.kind == "int":
        if not -(2**62) < value < 2**62:
            raise ValueRangeError(
                signature.name, number.name, "an int within 62 bits", shown(value)
            )
        return value
    if math.isnan(value) or math.isinf(value):
        raise ValueRangeError(signature.name, number.name, "a finite number", str(value))
    return value


def shown(value: Any) -> str:
    """A value in an error: what it is, at most a line of it."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no int of more than some thousand digits
        return f"an {type(value).__name__} of {value.bit_length()} bits"
    return text if len(text) <= 80 and "\n" not in text else f"{type(value).__name__} {text[:60]!r}"


def _check_dtypes(
    signature: Signature, tensors: dict[str, Any], asked: Any
) -> tuple[torch.dtype, torch.device]:
    """The dtype that all queries share (`asked` where no input has one) and the device."""
    shared: tuple[str, torch.dtype] | None = None
    exact: tuple[str, torch.dtype] | None = None
    turned: tuple[str, torch.dtype] | None = None
    placed: tuple[str, torch.device] | None = None
    for tensor in sorted(signature.inputs, key=lambda slot: not slot.positional):
        value = tensors.get(tensor.name)
        if value is None:
            continue
        if placed is None and isinstance(value, torch.Tensor):
            placed = (tensor.name, value.device)
        _check_place(signature, tensor, value, placed)
        _check_kind(signature, tensor, value)
        if tensor.dtype == "query":
            shared = shared or (tensor.name, value.dtype)
            _check_same(signature, tensor, value, shared)
        if tensor.dtype == "complex":
            real = torch.float64 if value.dtype is torch.complex128 else torch.float32
            turned = turned or (tensor.name, real)
        if tensor.dtype == "accumulate":
            exact = exact or (tensor.name, value.dtype)
            _check_same(signature, tensor, value, exact)
    dtype = shared[1] if shared else _asked_dtype(signature, asked, exact or turned)
    wide = dtype is torch.float64
    if exact and (exact[1] is torch.float64) is not wide:
        expected = "torch.float64" if wide else "torch.float32"
        raise DtypeError(signature.name, exact[0], expected, str(exact[1]))
    return dtype, placed[1] if placed else torch.device("cpu")


def _asked_dtype(
    signature: Signature, asked: Any, exact: tuple[str, torch.dtype] | None
) -> torch.dtype:
    if asked is None:
        return exact[1] if exact else torch.float32
    if asked not in FLOATS:
        raise DtypeError(signature.name, "dtype", "a floating torch.dtype", shown(asked))
    return asked  # type: ignore[no-any-return]


def _check_place(
    signature: Signature, tensor: TensorSlot, value: Any, placed: tuple[str, torch.device] | None
) -> None:
    """A dense tensor on the device of the others."""
    if not isinstance(value, torch.Tensor):
        raise no_tensor(signature, tensor.name, value)
    if value.layout is not torch.strided or value.is_nested:
        came = "a nested tensor" if value.is_nested else str(value.layout)
        raise DtypeError(signature.name, tensor.name, "a dense tensor", came)
    if placed is not None and value.device != placed[1]:
        expected = f"a tensor on {placed[1]}, as `{placed[0]}` is"
        came = f"{value.device}; pass {tensor.name}.to({placed[0]}.device)"
        raise DeviceError(signature.name, tensor.name, expected, came)


def no_tensor(signature: Signature, name: str, value: Any) -> DtypeError:
    """The error for an input that is no tensor."""
    axes = ", ".join(next(slot.axes for slot in signature.inputs if slot.name == name))
    return DtypeError(signature.name, name, f"a tensor [{axes}]", type(value).__name__)


def _check_kind(signature: Signature, tensor: TensorSlot, value: torch.Tensor) -> None:
    """A dtype that the argument may have."""
    expected = ""
    if tensor.dtype in ("query", "real"):
        if value.dtype not in FLOATS:
            expected = "float32, bfloat16, float16 or float64"
    elif tensor.dtype == "accumulate":
        if value.dtype not in (torch.float32, torch.float64):
            expected = "float32 or float64"
    elif tensor.dtype == "complex":
        if value.dtype not in (torch.complex64, torch.complex128):
            expected = "complex64 or complex128"
    elif tensor.dtype == "int" and value.dtype not in INTEGERS:
        expected = "an integer tensor"
    elif tensor.dtype == "bool" and value.dtype is not torch.bool:
        expected = "a bool tensor"
    if expected:
        way = CASTS.get(tensor.dtype) if not value.is_complex() else None
        came = f"{value.dtype}; pass {tensor.name}{way}" if way else str(value.dtype)
        raise DtypeError(signature.name, tensor.name, expected, came)


def _check_same(
    signature: Signature, tensor: TensorSlot, value: torch.Tensor, first: tuple[str, torch.dtype]
) -> None:
    if value.dtype is not first[1]:
        expected = f"{first[1]}, the dtype of `{first[0]}`"
        came = f"{value.dtype}; pass {tensor.name}.to({first[0]}.dtype)"
        raise DtypeError(signature.name, tensor.name, expected, came)


def measure_axes(signature: Signature, tensors: dict[str, Any], known: dict[str, Any]) -> None:
    """Reads the lengths of axes off the tensors; the first tensor that has an axis decides, those
    by place before the others."""
    for tensor in sorted(signature.inputs, key=lambda slot: not slot.positional):
        value = tensors.get(tensor.name)
        if value is None:
            continue
        if value.dim() != len(tensor.axes):
            expected = f"{len(tensor.axes)} dimensions [{', '.join(tensor.axes)}]"
            raise ShapeError(signature.name, tensor.name, expected, f"shape {tuple(value.shape)}")
        for axis, size in zip(tensor.axes, value.shape, strict=True):
            known.setdefault(f"len_{axis}", size)
    for coarse, fine in signature.coarse:
        groups, members = known.get(f"len_{coarse}"), known.get(f"len_{fine}")
        if groups is None or members is None:
            continue
        if members and (groups == 0 or members % groups):
            name = next(t.name for t in signature.inputs if coarse in t.axes)
            expected = f"a number of `{coarse}` that divides the {members} of `{fine}`"
            raise ShapeError(signature.name, name, expected, str(groups))


def _derive(signature: Signature, tensors: dict[str, Any], known: dict[str, Any]) -> None:
    """Adds the lengths that follow from others; every axis then has one."""
    try:
        signature.lengths(known)
        for tensor in signature.inputs:
            for axis in tensor.axes:
                known[f"len_{axis}"]
    except KeyError as error:
        axis = str(error.args[0]).removeprefix("len_")
        for tensor in signature.inputs:
            if axis in tensor.axes and tensor.name not in tensors:
                expected = f"a tensor [{', '.join(tensor.axes)}], which measures axis `{axis}`"
                raise ArgumentMissing(signature.name, tensor.name, expected) from None
        raise


def _check_shape(
    signature: Signature, tensor: TensorSlot, value: torch.Tensor, known: dict[str, Any]
) -> None:
    for place, axis in enumerate(tensor.axes):
        wanted = known[f"len_{axis}"]
        if value.shape[place] == wanted:
            continue
        other = next(
            (t.name for t in signature.inputs if t.name != tensor.name and axis in t.axes),
            "the spec",
        )
        expected = f"length {wanted} on axis `{axis}` (dimension {place}), as {other} has"
        raise ShapeError(signature.name, tensor.name, expected, f"shape {tuple(value.shape)}")


def _fill_defaults(call: Call) -> None:
    missing = [t for t in call.signature.inputs if t.name not in call.tensors and not t.absent]
    if not missing:
        return
    values = call.signature.defaults(call.known)
    for tensor in missing:
        dtype = call.new_output_dtype(tensor)
        one = torch.full((), values[tensor.name], dtype=dtype, device=call.device)
        call.tensors[tensor.name] = one.expand(call.shape(tensor))


def _check_shift(
    signature: Signature, name: str, value: Any, batch: int, device: torch.device
) -> Any:
    """An int, or int64 [batch] on the operator's device (never synchronised)."""
    axis = signature.rows if name == "offset" else signature.keys
    unmoved = isinstance(value, int) and value == 0 and name != "key_length"
    if not axis and not unmoved:
        raise ArgumentUnknown(signature.name, name, "no such argument: no axis moves", repr(value))
    if isinstance(value, torch.Tensor):
        if value.dtype not in INTEGERS:
            raise DtypeError(signature.name, name, "an int or an integer tensor", str(value.dtype))
        if value.shape not in ((), (batch,)):
            raise ShapeError(signature.name, name, f"shape ({batch},)", f"{tuple(value.shape)}")
        if value.device != device:
            raise DeviceError(signature.name, name, f"a tensor on {device}", str(value.device))
        return value.to(torch.int64).expand(batch)
    return check_position(signature, name, value)


def check_position(signature: Signature, name: str, value: Any) -> Any:
    """A first position or a length that is no tensor: an int; symbolic ones pass, and an int is not
    converted, which would fix it for torch.compile."""
    if isinstance(value, torch.SymInt):
        return value
    try:
        if isinstance(value, bool):
            raise TypeError
        position = value if isinstance(value, int) else index_of(value)
    except TypeError:
        expected = "an int or an integer tensor"
        raise DtypeError(signature.name, name, expected, shown(value)) from None
    if not -(2**40) <= position <= 2**40:
        raise ValueRangeError(signature.name, name, "an int within 40 bits", shown(value))
    return position


def _check_key_length(
    signature: Signature, value: Any, known: dict[str, Any], batch: int, device: torch.device
) -> Any:
    checked = _check_shift(signature, "key_length", value, batch, device)
    keys = known.get(f"len_{signature.keys}", 0)
    if isinstance(checked, int) and not 0 <= checked <= keys:
        expected = f"0 to {keys}, the length of axis `{signature.keys}`"
        raise ValueRangeError(signature.name, "key_length", expected, str(checked))
    if type(checked) is torch.Tensor and checked.device.type == "cpu" and checked.numel():
        low, high = (int(bound) for bound in torch.aminmax(checked))
        if low < 0 or high > keys:
            expected = f"entries of 0 to {keys}, the length of axis `{signature.keys}`"
            came = f"entries of {low} to {high}"
            raise ValueRangeError(signature.name, "key_length", expected, came)
    return checked


__all__ = ["Call", "NumberSlot", "Signature", "TensorSlot", "bind_arguments", "check_call"]
