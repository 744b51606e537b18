"""fuse: neighbours joined, stores that nobody reads gone, results the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from schedule_interpreter import interpret
from spec_builder import exp, lift
from specimen_frame import E, at, b, e, h, i, named, output, schedule_of, space, tensor

from attnc.expressions import tree
from attnc.passes.fuse import fuse
from attnc.schedule import Schedule
from attnc.schedule.maps import MapKernel
from attnc.schedule.statements import Let, Store
from attnc.verify import verify_schedule

X, OUT, OTHER = tensor("x", b, h, i, e), output("out", b, h, i, e), output("other", b, h, i, e)
HALF, DEAD = space("half", b, h, i), space("dead", b, h, i)
ROW = (b, h, i)


def _map(name: str, value: float, store: Store) -> MapKernel:
    """A map whose value is called `scale`, whatever it is."""
    return MapKernel(name, ROW, (Let("scale", tree.number(value)),), (store,))


def _schedule(*kernels: MapKernel) -> Schedule:
    return schedule_of("maps", (X,), (OUT, OTHER), kernels, (HALF, DEAD), widths=(E,))


def _scaled() -> object:
    return lift(at(X, *ROW, e) * named("scale"))


def test_neighbours_become_one() -> None:
    """Values of one name are told apart."""
    first = _map("first", 2.0, Store(OUT, e, _scaled()))  # type: ignore[arg-type]
    second = _map("second", 3.0, Store(OTHER, e, _scaled()))  # type: ignore[arg-type]
    schedule = _schedule(first, second)
    fused = fuse(schedule)
    verify_schedule(fused)
    (kernel,) = fused.kernels
    assert isinstance(kernel, MapKernel)
    assert [let.name for let in kernel.values] == ["scale", "scale_2"]
    given = {"x": np.random.default_rng(0).standard_normal((2, 1, 3, 4))}
    for name, value in interpret(fused, given).items():
        np.testing.assert_array_equal(value, interpret(schedule, given)[name])
        np.testing.assert_array_equal(value, given["x"] * (2.0 if name == "out" else 3.0))


def test_equal_values_are_shared() -> None:
    first = _map("first", 2.0, Store(OUT, e, _scaled()))  # type: ignore[arg-type]
    second = _map("second", 2.0, Store(OTHER, e, _scaled()))  # type: ignore[arg-type]
    (kernel,) = fuse(_schedule(first, second)).kernels
    assert isinstance(kernel, MapKernel)
    assert len(kernel.values) == 1


def test_a_reader_stays_behind_its_writer() -> None:
    first = _map("first", 0.5, Store(HALF, None, lift(named("scale"))))
    reading = Store(OUT, e, lift(at(X, *ROW, e) * at(HALF, *ROW)))
    second = MapKernel("second", ROW, (), (reading, replace(reading, array=OTHER)))
    assert len(fuse(_schedule(first, second)).kernels) == 2


def test_what_nobody_reads_goes() -> None:
    dead = MapKernel("dead", ROW, (), (Store(DEAD, None, lift(exp(0.0))),))
    alive = _map("alive", 2.0, Store(OUT, e, _scaled()))  # type: ignore[arg-type]
    other = _map("other", 2.0, Store(OTHER, e, _scaled()))  # type: ignore[arg-type]
    fused = fuse(_schedule(dead, alive, other))
    assert [workspace.array.name for workspace in fused.workspaces] == []
    assert [kernel.name for kernel in fused.kernels if isinstance(kernel, MapKernel)] == ["alive"]
