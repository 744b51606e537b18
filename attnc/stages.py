"""What stands between a Spec and its kernels, kept together."""

from __future__ import annotations

from dataclasses import dataclass, field

from attnc.errors import UnsupportedError
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Kind
from attnc.graph import Graph
from attnc.schedule import Schedule
from attnc.signature import Signature
from attnc.spec import Spec


@dataclass(frozen=True, slots=True)
class Pairs:
    """What stands for the complex numbers of a text: pairs of reals.

    spec     the Spec as written
    names    by the name of a complex array those of its real and its imaginary part
    """

    spec: Spec
    names: dict[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Stages:
    """What the compiler made of a Spec: a schedule, or a pipeline of several with equations
    between them. Without either no kernel runs it, and `refusal` says why. `pairs`: where the text
    has complex numbers, whose parts `spec` has instead."""

    spec: Spec
    graph: Graph
    schedule: Schedule | None
    refusal: UnsupportedError | None
    pipeline: Pipeline | None = None
    pairs: Pairs | None = None


@dataclass(frozen=True, slots=True)
class Carry:
    """What goes from one row of a stage to the next: the stage is the operator of one row, called
    for each in turn, and updates run between the calls.

    row       the index whose rows are run in order
    states    what is carried
    clauses   scores and weights that the updates read: the arrays of the pipeline that stand for
              them, made by the stage
    """

    row: Index
    states: tuple[Array, ...]
    clauses: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class KernelStage:
    """A block of a body as an operator of its own.

    block       the block's name
    stages      what the compiler made of it
    arguments   its inputs by name: the arrays of the pipeline that they are given
    lengths     its params that are lengths of the pipeline's axes
    provides    the arrays of the pipeline that it makes: the names of its outputs
    carry       what its rows hand on, where it is the operator of one row
    states      states of the pipeline that it takes and gives back by their names
    """

    block: str
    stages: Stages
    arguments: tuple[tuple[str, Array], ...]
    lengths: tuple[tuple[str, Axis], ...]
    provides: tuple[tuple[str, str], ...]
    carry: Carry | None = None
    states: tuple[Array, ...] = ()

    @property
    def signature(self) -> Signature:
        assert self.stages.schedule is not None
        return self.stages.schedule.signature


@dataclass(frozen=True, slots=True)
class Growing:
    """What rows and another length make: an array, or a value within the equation of one.

    shown     its name, or where it is found
    beside    its axes but the rows'
    trained   whether calls with gradients alone make it
    copies    how many of it there are at once
    """

    shown: str
    beside: tuple[Axis, ...]
    kind: Kind
    trained: bool = False
    copies: int = 1


@dataclass(frozen=True, slots=True)
class Bands:
    """Rows of a pipeline that may run band after band.

    row       their axis
    own       the arrays that a band makes; all others are made before, of all rows
    apart     emits that need all rows at once: calls that ask for one have a single band
    growing   what a band's memory is made of
    """

    row: Axis
    own: frozenset[str]
    apart: frozenset[str]
    growing: tuple[Growing, ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Blocks that kernels run, in an order in which each comes after those that it reads; all other
    equations of the body run between them as torch operations."""

    kernels: tuple[KernelStage, ...]
    bands: Bands | None = None


@dataclass(frozen=True, slots=True)
class Links:
    """How a derivative hangs on its operator, by name (see attnc/runtime/family)."""

    reads: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    cotangents: tuple[tuple[str, str], ...] = ()
    gradients: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Member:
    """One kernel set of an operator's family: partial results, derivatives.

    schedules   by backend ("cpu", "triton"); their signatures are one
    results     how many outputs every call returns
    spec        what it was lowered from, if that is not the operator's
    emits       of a derivative: whether it serves calls that ask for emits, and those that do not
    """

    name: str
    schedules: dict[str, Schedule]
    results: int = 1
    links: Links = field(default_factory=Links)
    spec: Spec | None = None
    emits: bool = False

    @property
    def signature(self) -> Signature:
        return next(iter(self.schedules.values())).signature
