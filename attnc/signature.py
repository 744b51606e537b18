"""The signature of an operator: the one object that its definition, its call, its tuner and its C
ABI share.

Everything that a kernel may ask for at run time stands here once: tensors with their dimensions,
numbers, the lengths
of axes with the places where they are measured, offsets. The order of the fields is the order of
the C ABI.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attnc.expressions.index import Axis
from attnc.expressions.tree import Array, Expr, Kind

# query: the dtype that q, k, v share and the result has. real: any floating dtype of its own, read
# in the accumulation
# type. accumulate: float32, or float64 for float64 calls.
Dtype = Literal["query", "real", "accumulate", "int", "bool", "complex"]


@dataclass(frozen=True, slots=True)
class TensorArgument:
    """One tensor: `[batch, heads, ...]` in the order of `array.indices`.

    optional: may be left out; `default` (an expression of numbers, spread over the axes) stands for
    it then.
    absent: may be left out, and has no default: kernels are compiled without it then.
    positional: may be given by place."""

    array: Array
    dtype: Dtype
    role: Literal["input", "output"]
    positional: bool = False
    optional: bool = False
    default: Expr | None = None
    absent: bool = False

    @property
    def name(self) -> str:
        return self.array.name


@dataclass(frozen=True, slots=True)
class NumberArgument:
    """A param: given at the call (`default` None: it must be)."""

    name: str
    kind: Kind
    default: Expr | None = None


@dataclass(frozen=True, slots=True)
class LengthArgument:
    """The length of a measured axis: `sites` are (tensor name, dimension) that all must agree."""

    axis: Axis
    sites: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Requirement:
    """A condition over lengths and numbers that the call tests; `message` names what is wrong."""

    condition: Expr
    message: str


@dataclass(frozen=True, slots=True)
class ReadRequirement:
    """A condition that the call tests at every point where all of `given` hold; over indices,
    numbers, lengths, starts and input tensors. `text` is the read that needs it."""

    condition: Expr
    given: tuple[Expr, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Lag:
    """An input that is read at rows before its own: `taker` is what holds these beside the call's
    own where a recurrence goes on; `least` and `most` rows back, over numbers and lengths."""

    name: str
    taker: str
    least: Expr
    most: Expr


@dataclass(frozen=True, slots=True)
class Signature:
    """inputs, outputs (the result first, then emits), numbers, measured lengths; the axes whose
    first position the
    call may move (offset for rows, key_offset and key_length for keys); and what the call must
    test. Of a recurrence: its states in order, the axis that it walks, the inputs that it reads at
    other rows, and such a read that has no bound, as text."""

    name: str
    inputs: tuple[TensorArgument, ...]
    outputs: tuple[TensorArgument, ...]
    numbers: tuple[NumberArgument, ...]
    lengths: tuple[LengthArgument, ...]
    rows: Axis | None
    keys: Axis | None
    requirements: tuple[Requirement, ...] = ()
    random: bool = False
    reads: tuple[ReadRequirement, ...] = ()
    states: tuple[str, ...] = ()
    time: Axis | None = None
    lags: tuple[Lag, ...] = ()
    unbounded: str = ""
