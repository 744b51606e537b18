"""Launches the Triton kernels of an emitted module: arguments, tiles, buffers, in order.

The kernels are plain functions until the first launch: triton is imported then, not before, so that
a module works where there is none. The module's table TRITON_KERNELS says of every argument where
it comes from; nothing here knows a formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from attnc.runtime.call import Call
from attnc.runtime.failures import UnsupportedError
from attnc.runtime.triton_interpreter import interpreter_mended
from attnc.runtime.triton_plan import (
    SHARED,
    TritonDevice,
    TritonTile,
    block_of_width,
    chunk_of_width,
    merge_warps,
    padded_width,
    splits_of,
    stream_tiles,
)

NARROW_LIMIT = 2**20  # up to here positions are computed in 32 bits, where the formulas allow it
CANDIDATES = 64  # tiles that the region kernel judges at once
MAP_ROWS = 16
LISTS_KEPT = 8
WORK_NUMBERS = ("cells", "count", "most")


def triton_jit(function: Any) -> Any:
    """Marks a function as a Triton kernel or helper; `load_triton` makes it one."""
    function.is_triton = True
    return function


def load_triton(namespace: dict[str, Any]) -> None:
    """Turns the marked functions of a module into Triton's own. Integers are never specialised on:
    no length, stride or offset makes a new kernel."""
    if namespace.get("tl") is not None:
        return
    try:
        import triton
        import triton.language as tl
    except ImportError:
        raise UnsupportedError("kernels without triton installed", "triton", ("eager",)) from None
    namespace["triton"], namespace["tl"] = triton, tl
    for name, function in list(namespace.items()):
        if getattr(function, "is_triton", False):
            integers = [
                parameter
                for parameter, annotation in function.__annotations__.items()
                if annotation == "tl.int64"
            ]
            namespace[name] = triton.jit(do_not_specialize=integers)(function)


def describe_device(device: torch.device) -> TritonDevice:
    """The device as the model of tiles sees it."""
    if device.type != "cuda":
        return TritonDevice(80, SHARED[80], 1, interpreted=True)
    properties = torch.cuda.get_device_properties(device)
    capability = properties.major * 10 + properties.minor
    known = SHARED.get(capability, SHARED.get(properties.major * 10, 49152))
    shared = getattr(properties, "shared_memory_per_block_optin", known)
    return TritonDevice(capability, shared, properties.multi_processor_count)


class TritonBackend:
    """Runs calls of one module: `TritonBackend(TRITON_KERNELS, globals())(call, wanted)`.

    forced    constexprs and `splits`, `warps`, `stages` that stand above the model's choice, for
              tests and for the tuner
    tuned     (kernel, call) -> a tile chosen by measurement, or None
    """

    def __init__(self, table: Mapping[str, Any], namespace: dict[str, Any]) -> None:
        self.table = table
        self.namespace = namespace
        self.forced: dict[str, Any] = {}
        self.tuned: Callable[[str, Call], TritonTile | None] = lambda function, call: None
        self.failed: set[tuple[Any, ...]] = set()
        self._devices: dict[torch.device, TritonDevice] = {}
        self._lists: dict[tuple[Any, ...], dict[str, Any]] = {}

    def __call__(self, call: Call, wanted: frozenset[str]) -> tuple[torch.Tensor | None, ...]:
        load_triton(self.namespace)
        outputs = {
            output.name: call.new_output(output) if output.name in wanted else None
            for output in call.signature.outputs
        }
        tensors: dict[str, Any] = {**call.tensors, **outputs}
        for name, axes, dtype in self.table["workspaces"]:
            shape = tuple(call.known[f"len_{axis}"] for axis in axes)
            kind = call.dtype if dtype == "query" else call.accumulate
            tensors[name] = torch.empty(shape, dtype=kind, device=call.device)
        guard = (
            torch.cuda.device(call.device) if call.device.type == "cuda" else interpreter_mended()
        )
        with guard:
            for kernel in self.table["kernels"]:
                run = _KernelRun(self, kernel, call, tensors)
                run.map() if kernel["kind"] == "map" else run.stream()
        return tuple(outputs[output.name] for output in call.signature.outputs)

    def candidates(self, call: Call) -> dict[str, tuple[TritonTile, ...]]:
        """The tiles that the model would try for each stream kernel of a call."""
        return {
            kernel["function"]: _KernelRun(self, kernel, call, {}).candidates()
            for kernel in self.table["kernels"]
            if kernel["kind"] == "stream"
        }

    def device(self, device: torch.device) -> TritonDevice:
        if device not in self._devices:
            self._devices[device] = describe_device(device)
        return self._devices[device]

    def launch(
        self, function: str, programs: int, values: dict[str, Any], tile: TritonTile
    ) -> None:
        """Launches one kernel on the current device."""
        if values.get("USE_DESCRIPTORS"):
            _allow_scratch(self.namespace["triton"])
        kernel = self.namespace[function]
        kernel[(programs,)](**values, num_warps=tile.warps, num_stages=tile.stages)

    def keep_list(self, key: tuple[Any, ...], work: dict[str, Any]) -> None:
        """Remembers the tile lists of a mask without data."""
        while len(self._lists) >= LISTS_KEPT:
            self._lists.pop(next(iter(self._lists)))
        self._lists[key] = work

    def kept_list(self, key: tuple[Any, ...]) -> dict[str, Any] | None:
        return self._lists.get(key)


class _KernelRun:
    """One kernel of one call: what its arguments are, and its launches."""

    def __init__(
        self, backend: TritonBackend, kernel: Mapping[str, Any], call: Call, tensors: dict[str, Any]
    ) -> None:
        self.backend, self.kernel, self.call, self.tensors = backend, kernel, call, tensors
        self.table = backend.table
        self.device = backend.device(call.device)
        self.options: dict[str, Any] = {}
        self.work: dict[str, Any] = {}
        self.blocks: dict[str, int] = {}
        self.lengths: dict[str, int] = {}

    def length(self, axis: str) -> int:
        if axis in self.lengths:
            return self.lengths[axis]
        return int(self.call.known[f"len_{axis}"])

    # --- Map --------------------------------------------------------------------------------------

    def map(self) -> None:
        entries = 1
        for axis in self.kernel["over"]:
            entries *= self.length(axis)
        across = max((padded_width(self.length(a)) for a in self.kernel["across"]), default=1)
        rows = MAP_ROWS if self.device.interpreted else max(1, 4096 // across)
        self.set_types({"BLOCK_ROWS": min(rows, 256)})
        if entries:
            self.launch(self.kernel, -(-entries // self.options["BLOCK_ROWS"]), TritonTile())

    # --- Stream -----------------------------------------------------------------------------------

    def stream(self) -> None:
        kernel = self.kernel
        tiles = self.candidates()
        tuned = self.backend.tuned(kernel["function"], self.call)
        packed, pack, rows = self.packing()
        for tile in (*((tuned,) if tuned else ()), *tiles):
            mark = (kernel["function"], self.call.dtype, self.widths(), tile.key())
            if mark in self.backend.failed:
                continue
            if self.try_tile(tile, packed, pack, rows):
                return
            self.backend.failed.add(mark)
        widths = dict(self.widths())
        raise UnsupportedError(f"widths {widths} on this device", "triton", ("eager",))

    def candidates(self) -> tuple[TritonTile, ...]:
        """The tiles that the model allows, the likely best first."""
        _, pack, rows = self.packing()
        widths, bytes_ = dict(self.widths()), self.call.dtype.itemsize
        return stream_tiles(self.kernel, widths, rows * pack, bytes_, self.device)

    def widths(self) -> tuple[tuple[str, int], ...]:
        return tuple((axis, self.length(axis)) for axis in self.table["widths"])

    def packing(self) -> tuple[bool, int, int]:
        """Whether the heads of a group are rows of one tile (where few rows are held), how many
        heads that makes, and the rows of a head."""
        group, rows = self.group(), self.length(self.kernel["held"])
        packed = group > 1 and rows * group <= 128
        packed = bool(self.backend.forced.get("PACKED", packed)) and group > 0
        return packed, group if packed else 1, rows

    def group(self) -> int:
        """How many heads share their keys; 0 where heads are not packed."""
        if self.kernel["group"] is None:
            return 0
        fine, coarse = (self.length(axis) for axis in self.kernel["group"])
        return fine // coarse if coarse else 0

    def try_tile(self, tile: TritonTile, packed: bool, pack: int, rows: int) -> bool:
        """Launches with a tile; False if it does not fit the device after all."""
        forced = self.backend.forced
        constants = {**tile.constants, **forced}
        held, walked = constants["BLOCK_HELD"], constants["BLOCK_WALKED"]
        tile = TritonTile({}, forced.get("warps", tile.warps), forced.get("stages", tile.stages))
        held_tiles = -(-rows * pack // held)
        outer = 1
        for axis in self.kernel["grid"]:
            outer *= self.length(axis)
        outer //= pack
        self.choose_blocks(constants)
        blocks = self.count_blocks()
        cells = outer * held_tiles
        longest = sum(-(-self.length(axis) // walked) for axis in self.kernel["walked"])
        small = held * sum(self.blocks.values()) <= 16384  # what a merge holds in registers
        splits = splits_of(cells * blocks, longest, self.device) if small else 1
        splits = forced.get("splits") or splits
        if self.kernel["split"] is not None:
            splits = self.length(self.kernel["split"])
        split = splits > 1 and self.kernel["split"] is None
        self.set_types(
            {
                **constants, "BLOCKS": blocks, "PACKED": packed, "SPLIT": split, "splits": splits,
                "USE_DESCRIPTORS": self.descriptors(), "CANDIDATES": CANDIDATES,
            }
        )  # fmt: skip
        if not cells:
            return True
        self.list_tiles(held_tiles, walked)
        if split:
            self.reserve_shares(cells * splits * blocks * held)
        try:
            self.launch(self.kernel, cells * splits * blocks, tile)
        except Exception as error:
            if type(error).__name__ != "OutOfResources":
                raise
            return False
        if split:
            across = sum(self.blocks.get(axis, 1) for _, axis in self.kernel["carried"])
            merging = merge_warps(held, across)
            self.launch(self.kernel["merge"], cells * blocks, TritonTile({}, merging))
        return True

    def choose_blocks(self, constants: Mapping[str, Any]) -> None:
        """The part of each carried width that a program holds."""
        whole = self.kernel["finish_widths"]
        for _, axis in self.kernel["carried"]:
            if axis is not None:
                size = block_of_width(self.length(axis), self.call.dtype.itemsize, whole)
                self.blocks[axis] = constants.get(f"BLOCK_{axis.upper()}", size)

    def count_blocks(self) -> int:
        """Programs that share a carried width (every one of them computes the weights)."""
        counts = [-(-self.length(axis) // size) for axis, size in self.blocks.items()]
        return max([1, *counts])

    def set_types(self, options: Mapping[str, Any]) -> None:
        """The planner's constexprs, and the types of the call."""
        tl = self.backend.namespace["tl"]
        types = {
            torch.float16: tl.float16, torch.bfloat16: tl.bfloat16,
            torch.float32: tl.float32, torch.float64: tl.float64,
        }  # fmt: skip
        fast = (
            torch.get_float32_matmul_precision() != "highest" and self.call.dtype == torch.float32
        )
        self.options = {
            **options,
            "ACC": types[self.call.accumulate],
            "QUERY": types[self.call.dtype],
            "INDEX": tl.int32 if self.narrow() else tl.int64,
            "PRECISION": "tf32" if fast and not self.device.interpreted else "ieee",
        }

    def narrow(self) -> bool:
        """Whether positions fit 32 bits: the formulas allow it and every leaf is small."""
        if not self.table["narrow"]:
            return False
        shifts = (self.call.offset, self.call.key_offset)
        if any(isinstance(shift, torch.Tensor) for shift in shifts):
            return False
        numbers = (value for value in self.call.known.values() if isinstance(value, int))
        return all(-NARROW_LIMIT <= value <= NARROW_LIMIT for value in (*numbers, *shifts))

    def descriptors(self) -> bool:
        """Whether walked operands are loaded through tensor descriptors: sm_90 and up, contiguous
        rows whose strides are multiples of 16 bytes."""
        operands = self.kernel["operands"]
        possible = bool(operands) and all(self.describable(*operand) for operand in operands)
        wanted = self.device.capability >= 90 and self.call.dtype.itemsize == 2
        return possible and bool(self.backend.forced.get("USE_DESCRIPTORS", wanted))

    def describable(self, name: str, place: int) -> bool:
        tensor = self.tensors[name]
        if self.aligned(name) * tensor.element_size() < 16 or not self.unit(name):
            return False
        return bool(tensor.stride(place) > 0 and tensor.dim() - 1 != place)

    # --- Tiles at run time ------------------------------------------------------------------------

    def list_tiles(self, held_tiles: int, walked: int) -> None:
        """Runs the region kernels of the loops that have no closed spans (or when asked to)."""
        for number, region in enumerate(self.kernel["regions"]):
            if region is None:
                continue
            listed = not region["closed"] or bool(self.options.get("TILE_LIST"))
            self.options[f"TILE_LIST_{number}"] = listed
            if listed:
                self.list_loop(number, region, held_tiles, walked)

    def list_loop(
        self, number: int, region: Mapping[str, Any], held_tiles: int, walked: int
    ) -> None:
        call, work = self.call, self.work
        tables = any(
            isinstance(value, torch.Tensor)
            for value in (call.offset, call.key_offset, call.key_length)
        )
        cells = 1
        for axis in reversed(region["cells"]):
            used = axis in region["needs"] or tables
            count = self.length(axis) if used else 1
            work[f"count.{number}.{axis}"] = count
            work[f"cells.{number}.{axis}"] = cells if used else 0
            cells *= count
        most = max(-(-self.length(region["walked"]) // walked), 1)
        work[f"most.{number}.walked"], work[f"most.{number}.held"] = most, held_tiles
        key = None
        if not tables and not region["summaries"]:
            sizes = tuple(sorted((k, v) for k, v in call.known.items()))
            shifts = (call.offset, call.key_offset, call.key_length)
            options = (self.options["BLOCK_HELD"], walked, self.options["PACKED"])
            key = (region["function"], call.device, sizes, shifts, options)
            kept = self.backend.kept_list(key)
            if kept is not None:
                work.update(kept)
                return
        new: dict[str, Any] = {}
        new[f"tiles.{number}"] = self.buffer(cells * held_tiles * most, torch.int32)
        new[f"counts.{number}"] = self.buffer(cells * held_tiles * 2, torch.int32)
        work.update(new)
        for summary in region["summaries"]:
            self.summarise(number, summary, cells)
        self.launch(region, cells * held_tiles, TritonTile())
        if key is not None:
            self.backend.keep_list(key, new)

    def summarise(self, number: int, summary: Mapping[str, Any], cells: int) -> None:
        """Bounds of one expression over tiles."""
        side = "held" if summary["held"] else "walked"
        slots = cells * self.work[f"most.{number}.{side}"]
        dtype = self.call.accumulate if summary["real"] else torch.int64
        for bound in ("low", "high"):
            name = f"summary.{summary['summary']}.{bound}"
            self.work[name] = self.buffer(slots, dtype)
        self.launch(summary, slots, TritonTile())

    def reserve_shares(self, slots: int) -> None:
        """Room for what split programs leave: `slots` rows."""
        if self.kernel["rescales"]:
            self.work["peak"] = self.buffer(slots, self.call.accumulate)
        for name, axis in self.kernel["carried"]:
            across = self.blocks[axis] if axis is not None else 1
            self.work[f"carried.{name}"] = self.buffer(slots * across, self.call.accumulate)

    def buffer(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device=self.call.device)

    # --- Arguments --------------------------------------------------------------------------------

    def launch(self, entry: Mapping[str, Any], programs: int, tile: TritonTile) -> None:
        """One launch: every argument from its source."""
        values = {name: self.resolve(*source) for name, _, source in entry["arguments"]}
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
            return self.options["splits"] if name == self.kernel.get("split") else self.length(name)
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


_scratch_allowed = False


def _allow_scratch(triton: Any) -> None:
    """Lets kernels build tensor descriptors, for which Triton asks the caller for memory."""
    global _scratch_allowed
    if _scratch_allowed:
        return

    def allocate(size: int, alignment: int, stream: int | None) -> torch.Tensor:
        return torch.empty(size, dtype=torch.int8, device="cuda")

    triton.set_allocator(allocate)
    _scratch_allowed = True
