"""The specimens: hand-built Graphs and Schedules that hold to the invariants, print, and, where the
interpreter knows their kernels, compute what their graphs say."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from schedule_interpreter import Interpreter

from attnc.errors import InternalError
from attnc.expressions.evaluate import Environment, evaluate
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array
from attnc.graph import Graph, NodeKind, node_kind
from attnc.graph_text import graph_text
from attnc.schedule import Schedule
from attnc.schedule.text import schedule_text
from attnc.verify import verify_graph, verify_schedule

HERE = Path(__file__).parent / "specimens"
NAMES = sorted(path.stem for path in HERE.glob("*.py"))


def specimen(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(f"specimens.{name}", HERE / f"{name}.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def schedules(name: str) -> Iterator[Schedule]:
    module = specimen(name)
    yield module.schedule()
    if hasattr(module, "step_schedule"):
        yield module.step_schedule()


def test_all_are_there() -> None:
    assert len(NAMES) == 10


@pytest.mark.parametrize("name", NAMES)
def test_invariants_hold(name: str) -> None:
    verify_graph(specimen(name).graph())
    for schedule in schedules(name):
        verify_schedule(schedule)


@pytest.mark.parametrize("name", NAMES)
def test_texts(name: str) -> None:
    assert graph_text(specimen(name).graph()).startswith(f"graph {name}")
    for schedule in schedules(name):
        text = schedule_text(schedule)
        assert all(kernel.__class__.__name__ not in text for kernel in schedule.kernels)


def test_kinds_of_graphs() -> None:
    wanted = {
        "table_gradient": NodeKind.SCATTER,
        "entmax": NodeKind.SOLVE,
        "stick_breaking": NodeKind.SCAN,
        "selected_blocks": NodeKind.SELECT,
    }
    for name, kind in wanted.items():
        graph: Graph = specimen(name).graph()
        assert kind in {node_kind(node) for node in graph.network()}, name


SIZES = {"b": 2, "h": 4, "hk": 2, "i": 7, "j": 7, "d": 3, "e": 5, "lag": 8, "split": 2, "tile": 4}


def _inputs(schedule: Schedule, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = {}
    for argument in schedule.signature.inputs:
        shape = [SIZES.get(axis.name, 3) for axis in argument.array.axes]
        arrays[argument.name] = rng.standard_normal(shape)
        if argument.array.kind == "int":
            arrays[argument.name] = np.zeros(shape, int)
    return arrays


def _dense(array: Array, graph: Graph, arrays: dict[str, np.ndarray], **params: int) -> np.ndarray:
    (expr,) = [output.expr for output in graph.outputs if output.array.name == array.name]
    rank = len(array.indices)
    lengths: dict[Axis, int] = {}
    indices: dict[Index, np.ndarray] = {}
    for place, index in enumerate(array.indices):
        shape = [-1 if at == place else 1 for at in range(rank)]
        indices[index] = np.arange(SIZES[index.axis.name]).reshape(shape)
    for node in graph.network():
        axes = [*(i.axis for i in node.free), *(i.axis for i in node.bound)]
        axes += [node.attr] if isinstance(node.attr, Axis) else []
        axes += list(node.array.axes) if node.op == "read" else []
        lengths.update({a: SIZES[a.name] for a in axes if a.length is None})
    env = Environment(indices=indices, lengths=lengths, arrays=arrays, params=params, clamped=True)
    shape = [SIZES[axis.name] for axis in array.axes]
    return np.broadcast_to(evaluate(expr, env), shape)


@pytest.mark.parametrize("tiles", [(1, 1), (3, 2), (8, 8)])
@pytest.mark.parametrize(
    "name", ["merge_two", "stick_breaking", "packed_window", "entmax", "causal_sweep"]
)
def test_values(name: str, tiles: tuple[int, int]) -> None:
    """What the schedule computes is what the graph says."""
    graph, schedule = specimen(name).graph(), specimen(name).schedule()
    arrays = _inputs(schedule)
    params = {"size": 3, "sinks": 1} if name == "packed_window" else {}
    runner = Interpreter(schedule, dict(arrays), params, held_tile=tiles[0], walked_tile=tiles[1])
    found = runner.run()
    for argument in schedule.signature.outputs:
        if argument.name not in [o.array.name for o in graph.outputs] or name == "entmax":
            continue
        wanted = _dense(argument.array, graph, arrays, **params)
        np.testing.assert_allclose(found[argument.name], wanted, rtol=1e-9, atol=1e-9)
    if name == "entmax":
        assert np.all(np.abs(found["high"] - found["low"]) < 1e-9)


def test_a_broken_schedule_is_named() -> None:
    from dataclasses import replace

    schedule: Schedule = specimen("merge_two").schedule()
    kernel = schedule.kernels[0]
    for broken, invariant in (
        (replace(kernel, values=kernel.values[1:]), "defined"),  # type: ignore[union-attr]
        (replace(kernel, values=(*kernel.values, kernel.values[0])), "defined"),  # type: ignore[union-attr]
        (replace(kernel, stores=kernel.stores[:1]), "stored"),  # type: ignore[union-attr]
        (replace(kernel, over=kernel.over[1:]), "levels"),  # type: ignore[union-attr]
    ):
        with pytest.raises(InternalError, match=invariant):
            verify_schedule(replace(schedule, kernels=(broken,)))
