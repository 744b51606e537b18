"""What stands between a Spec and its kernels, kept together."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.errors import UnsupportedError
from attnc.graph import Graph
from attnc.schedule import Schedule
from attnc.spec import Spec


@dataclass(frozen=True, slots=True)
class Stages:
    """What the compiler made of a Spec. Without a schedule no kernel
    runs it, and `refusal` says why."""

    spec: Spec
    graph: Graph
    schedule: Schedule | None
    refusal: UnsupportedError | None
