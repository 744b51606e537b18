"""What stands between a Spec and its kernels, kept together."""

from __future__ import annotations

from dataclasses import dataclass, field

from attnc.errors import UnsupportedError
from attnc.graph import Graph
from attnc.schedule import Schedule
from attnc.signature import Signature
from attnc.spec import Spec


@dataclass(frozen=True, slots=True)
class Stages:
    """What the compiler made of a Spec. Without a schedule no kernel
    runs it, and `refusal` says why."""

    spec: Spec
    graph: Graph
    schedule: Schedule | None
    refusal: UnsupportedError | None


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
    """

    name: str
    schedules: dict[str, Schedule]
    results: int = 1
    links: Links = field(default_factory=Links)

    @property
    def signature(self) -> Signature:
        return next(iter(self.schedules.values())).signature
