"""Pictures of an operator: its mask with the tiles that kernels visit, and its graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attnc.errors import AttncError
from attnc.expressions.evaluate import Environment, evaluate
from attnc.expressions.tree import Expr, postorder
from attnc.schedule.regions import Region, Summary
from attnc.schedule.statements import Let
from attnc.schedule.streams import WalkedLoop
from attnc.spec import Spec

if TYPE_CHECKING:
    from rich.console import Console


def draw_spec_mask(
    spec: Spec,
    params: Mapping[str, Any],
    rows: int,
    keys: int,
    tile: int,
    seed: int,
    output: Path | None,
    console: Console,
) -> None:
    """Draws the mask of the first head for random inputs: PNG to `output`, or in the terminal."""
    from attnc.draw import draw_mask

    visible, states, details = mask_and_tiles(spec, params, rows, keys, tile, seed)
    where = output if output is not None else console
    draw_mask(visible, states, where, tile=tile, title=spec.name, details=details)


def mask_and_tiles(
    spec: Spec, params: Mapping[str, Any], rows: int, keys: int, tile: int, seed: int
) -> tuple[NDArray[Any], NDArray[Any], str]:
    """The visible set (rows, keys), the state of each tile (0 skipped, 1 mixed, 2 full), and what
    the mask reads in words."""
    from attnc.cases import Shape, draw_case
    from attnc.compiler import lower

    stages = lower(spec)
    if stages.pipeline is not None:
        raise AttncError(f"{spec.name} is a pipeline: its stages have masks, it has none to draw")
    if stages.schedule is None:
        assert stages.refusal is not None
        raise stages.refusal
    kernel = stages.schedule.kernels[-1]
    loops: tuple[WalkedLoop, ...] = getattr(kernel, "loops", ())
    if not loops:
        raise AttncError(f"{spec.name} has no loop over keys to draw")
    shape = Shape(rows, keys, width=4, value_width=4, batch=1, key_heads=1, group=1)
    case = draw_case(spec, shape, seed, params)
    environment = case_environment(spec, case.tensors, case.numbers)
    loop, held = loops[0], kernel.held  # type: ignore[union-attr]
    indices = {index: 0 for index in kernel.grid}  # type: ignore[union-attr]
    spans = environment.length(held.axis), environment.length(loop.walked.axis)
    visible = np.ones(spans, bool)
    lets = (*kernel.grid_values, *kernel.held_values, *loop.walked_values)  # type: ignore[union-attr]
    if loop.visible is not None:
        pairs = {held: np.arange(spans[0])[:, None], loop.walked: np.arange(spans[1])[None, :]}
        seen = evaluate(loop.visible, _after(lets, _with(environment, indices=indices | pairs)))
        visible = np.broadcast_to(seen, spans).copy()
    heads = _after(kernel.grid_values, _with(environment, indices=indices))  # type: ignore[union-attr]
    states = tile_states(loop.region, held, heads, spans, tile)
    return visible, states, _numbers_and_inputs(spec, environment, _mask_nodes(loop, lets), seed)


def _mask_nodes(loop: WalkedLoop, lets: tuple[Let, ...]) -> list[Expr]:
    """The nodes of a loop's mask and of the values that it uses."""
    if loop.visible is None:
        return []
    nodes = list(postorder(loop.visible))
    for let in reversed(lets):
        if any(node.op == "value" and node.attr == let.name for node in nodes):
            nodes += postorder(let.expr)
    return nodes


def _numbers_and_inputs(
    spec: Spec, environment: Environment, nodes: Sequence[Expr], seed: int
) -> str:
    """The numbers that nodes of a drawn call read, and which inputs were drawn for them."""
    params = {node.attr for node in nodes if node.op == "param"}
    arrays = {node.array.name for node in nodes if node.op == "read"}
    said = [
        f"{number.name} = {environment.params[number.name]}"
        for number in spec.numbers
        if number.name in params and number.name in environment.params
    ]
    drawn = [given.name for given in spec.inputs if given.array.name in arrays]
    if drawn:
        said.append(f"{', '.join(drawn)} drawn with seed {seed}")
    return ", ".join(said)


def case_environment(
    spec: Spec, tensors: Mapping[str, NDArray[Any]], numbers: Mapping[str, Any]
) -> Environment:
    """Lengths, numbers and arrays of a case, as expressions see them."""
    lengths = {
        axis: size
        for given in spec.inputs
        if given.name in tensors
        for axis, size in zip(given.array.axes, tensors[given.name].shape, strict=True)
    }
    environment = Environment(params=dict(numbers), lengths=lengths, arrays=dict(tensors))
    for number in spec.numbers:
        if number.name not in numbers and number.default is not None:
            params = {
                **environment.params,
                number.name: evaluate(number.default, environment).item(),
            }
            environment = Environment(params=params, lengths=lengths, arrays=dict(tensors))
    missing = {
        given.name: np.full(
            [environment.length(axis) for axis in given.array.axes],
            evaluate(given.default, environment),
        )
        for given in spec.inputs
        if given.name not in tensors and given.default is not None
    }
    return _with(environment, arrays={**tensors, **missing})


def _with(environment: Environment, **changes: Any) -> Environment:
    from dataclasses import replace

    return replace(environment, **changes)


def _after(lets: tuple[Let, ...], environment: Environment) -> Environment:
    """The environment with the values of statements, of those that need no tile."""
    for let in lets:
        if any(node.op == "fold" for node in postorder(let.expr)):
            continue
        values = {**environment.values, let.name: evaluate(let.expr, environment)}
        environment = _with(environment, values=values)
    return environment


def tile_states(
    region: Region, held: Any, environment: Environment, spans: tuple[int, int], tile: int
) -> NDArray[Any]:
    """0, 1 or 2 for each tile: skipped, mixed, full, as the region's predicate says."""
    counts = tuple(-(-span // tile) for span in spans)
    states = np.zeros(counts, np.int64)
    for a in range(counts[0]):
        for b in range(counts[1]):
            low = (a * tile, b * tile)
            high = (min(low[0] + tile, spans[0]) - 1, min(low[1] + tile, spans[1]) - 1)
            bounds = dict(zip(("held_low", "walked_low"), low, strict=True))
            bounds |= dict(zip(("held_high", "walked_high"), high, strict=True))
            for summary in region.summaries:
                bounds |= _summary(summary, held, environment, low, high)
            here = _with(environment, values={**environment.values, **bounds})
            if bool(evaluate(region.possible, here)):
                states[a, b] = 2 if bool(evaluate(region.certain, here)) else 1
    return states


def _summary(
    summary: Summary,
    held: Any,
    environment: Environment,
    low: tuple[int, int],
    high: tuple[int, int],
) -> dict[str, Any]:
    side = 0 if summary.index == held else 1
    at = np.arange(low[side], high[side] + 1)
    indices = {**environment.indices, summary.index: at}
    values = np.broadcast_to(evaluate(summary.expr, _with(environment, indices=indices)), at.shape)
    return {f"{summary.name}_low": values.min(), f"{summary.name}_high": values.max()}


def draw_graph(spec: Spec, output: Path) -> Path:
    """Draws the Graph in layers, operands above their users, to an SVG or PNG file."""
    from attnc.compiler import lower
    from attnc.draw import draw_network

    graph = lower(spec).graph
    draw_network(graph, output)
    return output
