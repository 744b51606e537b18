"""The arguments of one Triton kernel in one call: each from the place that its name says, or the
table of the module (see Argument in attnc/backends/triton_names)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from attnc.runtime.call import Call
from attnc.runtime.triton_plan import TritonTile, chunk_of_width, padded_width

WORK_NUMBERS = ("cells", "count", "most")
SIZES = ("width", "padded", "chunk", "block")  # of an axis: WIDTH_D, PADDED_D, ...
OPTIONS = ("BLOCK_HELD", "BLOCK_WALKED", "BLOCK_ROWS", "CHUNK_BLOCK", "splits")


def implied_source(name: str, dimensions: Mapping[str, Sequence[str]]) -> tuple[Any, ...]:
    """The source that the name of an argument says: `q_ptr`, `q_stride_d`, `Q_ALIGN`, `len_i`,
    `WIDTH_D`. `dimensions`: what the strides of each tensor are called, in order."""
    if name in OPTIONS:
        return ("option", name)
    if name.isupper():
        return _implied_constant(name, dimensions)
    stem = name.removesuffix("_ptr")
    what, _, axis = stem.partition("_")
    if stem != name:
        if what in ("start", "valid"):
            return (f"{what}s", axis)
        carried = stem.removesuffix("_work")
        return ("tensor", stem) if carried == stem else ("work", f"carried.{carried}")
    array, _, dimension = name.rpartition("_stride_")
    if dimension in dimensions.get(array, ()):
        return ("stride", array, tuple(dimensions[array]).index(dimension))
    if what == "len":
        return ("length", axis)
    if what in ("start", "valid"):
        shorter = axis.removesuffix("_step")
        return (what, axis) if shorter == axis else (f"{what}s_step", shorter)
    return ("number", name)


def _implied_constant(name: str, dimensions: Mapping[str, Sequence[str]]) -> tuple[Any, ...]:
    array, _, flag = name.rpartition("_")
    if flag in ("ALIGN", "UNIT"):
        found = (one for one in dimensions if one.upper() == array)
        return (flag.lower(), next(found, array.lower()))
    size, _, axis = name.partition("_")
    known = size.lower() in SIZES and axis
    return (size.lower(), axis.lower()) if known else ("option", name)


def with_arguments(table: Mapping[str, Any], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """A module's table with `arguments` in each entry: (name, source) in the order of the
    function's definition."""
    dimensions = table["dimensions"]

    def whole(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(whole, value))
        if not isinstance(value, Mapping) or "function" not in value:
            return value
        function = namespace[value["function"]]
        code = getattr(function, "fn", function).__code__  # Triton's own, or not yet
        own = value.get("sources", {})
        names = code.co_varnames[: code.co_argcount]
        made = {key: whole(item) for key, item in value.items() if key != "sources"}
        made["arguments"] = tuple((n, own.get(n) or implied_source(n, dimensions)) for n in names)
        return made

    return {**table, "kernels": whole(table["kernels"])}


class KernelArguments:
    """One kernel of one call. `lengths` are those that the launch itself has chosen or derived,
    `options` the planner's constexprs, `work` buffers and numbers of the launch, `blocks` the part
    of each carried width that a program holds, `shares` the entries of a program's share of a
    tensor that several programs add up."""

    def __init__(
        self,
        backend: Any,
        kernel: Mapping[str, Any],
        call: Call,
        tensors: dict[str, Any],
        lengths: Mapping[str, int],
    ) -> None:
        self.backend, self.kernel, self.call, self.tensors = backend, kernel, call, tensors
        self.lengths = lengths
        self.table = backend.table
        self.device = backend.device(call.device)
        self.options: dict[str, Any] = {}
        self.work: dict[str, Any] = {}
        self.blocks: dict[str, int] = {}
        self.shares: dict[str, int] = {}

    def length(self, axis: str) -> int:
        if axis in self.lengths:
            return self.lengths[axis]
        return int(self.call.known[f"len_{axis}"])

    def buffer(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device=self.call.device)

    def launch(self, entry: Mapping[str, Any], programs: int, tile: TritonTile) -> None:
        """One launch: every argument from its source."""
        values = {name: self.resolve(*source) for name, source in entry["arguments"]}
        self.backend.launch(entry["function"], programs, values, tile)

    def resolve(self, kind: str, name: str, place: int = 0) -> Any:
        """The value of an argument (see Argument in attnc/backends/triton_names)."""
        if kind == "tensor":
            return self.tensors[name]
        if kind == "stride":
            return self.stride(name, place)
        if kind == "align":
            return self.aligned(name)
        if kind == "unit":
            return self.unit(name)
        if kind in ("length", "width"):
            return self.length(name)
        if kind == "padded":
            return padded_width(self.length(name))
        if kind == "chunk":
            chosen = chunk_of_width(self.length(name), self.call.dtype.itemsize)
            return self.options.get(f"CHUNK_{name.upper()}", chosen)
        if kind == "block":
            return self.blocks.get(name) or padded_width(self.length(name))
        if kind == "option":
            return self.options[name]
        if kind == "work":
            return self.work.get(name, 0 if name.split(".")[0] in WORK_NUMBERS else None)
        if kind == "share":
            return self.shares.get(name, 0)
        if kind == "seed":
            return self.call.seed
        if kind == "number":
            value = self.call.known[name]
            return int(value) if isinstance(value, bool) else value
        return self.shifted(kind, name)

    def shifted(self, kind: str, axis: str) -> Any:
        """First positions and valid counts: an int, or a table of the batch on the device."""
        what, _, part = kind.partition("_")
        if what.startswith("valid"):
            value = self.call.key_length
            value = self.length(axis) if value is None else value
        elif axis == self.table["rows"]:
            value = self.call.offset
        else:
            value = self.call.key_offset if axis == self.table["keys"] else 0
        table = isinstance(value, torch.Tensor)
        if part == "step":
            return value.stride(0) if table else 0
        if what.endswith("s"):
            return value if table else None
        return 0 if table else value

    def stride(self, name: str, place: int) -> int:
        tensor = self.tensors[name]
        if tensor is None:
            return 0
        last = place == tensor.dim() - 1
        return int(tensor.stride(place)) if tensor.shape[place] > 1 else int(last)

    def unit(self, name: str) -> bool:
        tensor = self.tensors[name]
        if tensor is None or not tensor.dim():
            return True
        return bool(tensor.shape[-1] <= 1 or tensor.stride(-1) == 1)

    def aligned(self, name: str) -> int:
        """How many elements divide every stride but the last and the address: those of 16 bytes,
        or 1. Where the last stride is not 1 nothing is gained."""
        tensor = self.tensors[name]
        if tensor is None:
            return 1
        wide = 16 // int(tensor.element_size())
        if not self.unit(name) or tensor.data_ptr() % 16:
            return 1
        strides = (self.stride(name, place) for place in range(tensor.dim() - 1))
        return wide if all(stride % wide == 0 for stride in strides) else 1

    def describable(self, name: str, place: int) -> bool:
        tensor = self.tensors[name]
        if self.aligned(name) * tensor.element_size() < 16 or not self.unit(name):
            return False
        return bool(tensor.stride(place) > 0 and tensor.dim() - 1 != place)


def measure(text: Any, known: Mapping[str, Any]) -> int:
    """The length of an axis that follows from others: a tree of ("op", operands), ("length", axis),
    ("number", value), ("param", name)."""
    kind, *operands = text
    if kind == "number":
        return int(operands[0])
    if kind in ("length", "param"):
        return int(known[f"len_{operands[0]}" if kind == "length" else operands[0]])
    values = [measure(operand, known) for operand in operands]
    if kind in ("floordiv", "mod"):
        quotient, rest = divmod(values[0], values[1])
        return quotient if kind == "floordiv" else rest
    if kind == "mul":
        return values[0] * values[1]
    if kind in ("min", "max"):
        return min(values) if kind == "min" else max(values)
    return values[0] + values[1] if kind == "add" else values[0] - values[1]
