"""The signature of an operator as plain data, and a bound call of it.

A `Call` is what every backend gets: tensors by name (defaults filled in, outputs not yet made),
numbers, the lengths of all axes, offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

SHIFTS = ("offset", "key_offset", "key_length")
EXTRA_KEYWORDS = ("offset", "key_offset", "key_length", "seed", "dtype", "emit")
Numbers = Mapping[str, Any]
Requirement = tuple[Any, str, str, tuple[str, ...]]


@dataclass(frozen=True)
class TensorSlot:
    """One tensor argument: the names of its axes in order, and which dtypes it takes.

    dtype: query (the one that all of these share; the result has it), real (any floating dtype),
    accumulate (float32, or
    float64 for float64 calls; outputs only), int, bool, complex (complex64 or complex128).
    absent: without a default; where it is left out, kernels are compiled without it."""

    name: str
    axes: tuple[str, ...]
    dtype: str
    positional: bool = False
    optional: bool = False
    absent: bool = False


@dataclass(frozen=True)
class NumberSlot:
    """One number argument. `range`: inclusive bounds."""

    name: str
    kind: str
    optional: bool = False


@dataclass(frozen=True)
class Signature:
    """Everything that a call may say, in order.

    lengths(known)    adds to the measured lengths (`len_AXIS`), the numbers given and the statics
                      those that follow:
                      defaults of numbers, ranges, products of coordinates
    defaults(known)   the value of each optional tensor that was left out, a number
    requirements(known)   (holds, message, the argument to blame, the names of what it depends on)
    coarse            axis -> the finer axis whose length it divides (key heads of heads)
    rows, keys        the axes that `offset` and `key_offset`, `key_length` move and bound
    results           how many outputs every call returns; the others are emits, asked for by name
    separate          entries of the batch never mix, so that a batch of batches is a batch
    reads             what the call tests of positions that data decides (see reads)
    states, time      of a recurrence: its states, which are emits, and the axis that it walks
    lags              the inputs that it reads at other rows, each with the input that takes those
                      rows beside the call's own where it goes on
    reach(known)      for each of these (least, most) rows back
    unbounded         a read of another row that has no bound, as text
    """

    name: str
    inputs: tuple[TensorSlot, ...]
    outputs: tuple[TensorSlot, ...]
    numbers: tuple[NumberSlot, ...] = ()
    statics: tuple[tuple[str, Any], ...] = ()
    coarse: tuple[tuple[str, str], ...] = ()
    rows: str = ""
    keys: str = ""
    random: bool = False
    lengths: Callable[[dict[str, Any]], None] = field(default=lambda known: None)
    defaults: Callable[[Numbers], dict[str, Any]] = field(default=lambda known: {})
    requirements: Callable[[Numbers], tuple[Requirement, ...]] = field(default=lambda known: ())
    results: int = 1
    separate: bool = True
    reads: tuple[Any, ...] = ()
    states: tuple[str, ...] = ()
    time: str = ""
    lags: tuple[tuple[str, str], ...] = ()
    reach: Callable[[Numbers], tuple[tuple[int, int], ...]] = field(default=lambda known: ())
    unbounded: str = ""

    @property
    def keywords(self) -> list[str]:
        """Every name that a call may use."""
        names = [tensor.name for tensor in self.inputs] + [number.name for number in self.numbers]
        return names + [name for name in EXTRA_KEYWORDS if self.takes(name)]

    def takes(self, extra: str) -> bool:
        """Whether a call may say this of EXTRA_KEYWORDS."""
        if extra == "seed":
            return self.random
        if extra == "dtype":
            return self.chooses_dtype
        return True

    @property
    def chooses_dtype(self) -> bool:
        """Whether the call says the dtype of the result, since no input has it."""
        made = any(output.dtype == "query" for output in self.outputs)
        return made and all(tensor.dtype not in ("query", "complex") for tensor in self.inputs)


@dataclass
class Call:
    """A bound call. `known` holds lengths as `len_AXIS`, numbers and statics by name; `offset` and
    its kin are ints or
    int64 tensors [batch]; key_length is None where all keys count; `given` are the tensors that the
    caller passed (defaults stand for the others)."""

    signature: Signature
    tensors: dict[str, torch.Tensor]
    known: dict[str, Any]
    offset: Any
    key_offset: Any
    key_length: Any
    seed: int
    dtype: torch.dtype
    device: torch.device
    given: frozenset[str] = frozenset()

    def shape(self, tensor: TensorSlot) -> tuple[int, ...]:
        """The shape of a tensor of this call."""
        return tuple(self.known[f"len_{axis}"] for axis in tensor.axes)

    @property
    def accumulate(self) -> torch.dtype:
        """The dtype of statistics: float32, or float64 in a float64 call."""
        return torch.float64 if self.dtype is torch.float64 else torch.float32

    def new_output_dtype(self, tensor: TensorSlot) -> torch.dtype:
        """The dtype of an output of this call."""
        turned = torch.complex128 if self.accumulate is torch.float64 else torch.complex64
        dtypes = {"query": self.dtype, "int": torch.int64, "bool": torch.bool, "complex": turned}
        return dtypes.get(tensor.dtype, self.accumulate)

    def new_output(self, tensor: TensorSlot) -> torch.Tensor:
        """An uninitialised output of this call."""
        dtype = self.new_output_dtype(tensor)
        return torch.empty(self.shape(tensor), dtype=dtype, device=self.device)
