"""Backwards as schedules, interpreted, against the eager form's float64 autograd: every operator of
the shelf that lowers, in two sweeps and in one; every other is refused in the words of the feature
list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from eager_loader import load, to_torch
from schedule_interpreter import Interpreter

from attnc.cases import Case, Shape, draw_case
from attnc.compiler import short_name
from attnc.errors import AttncError, UnsupportedError
from attnc.expressions.evaluate import Environment, evaluate
from attnc.front import load_source, read_spec
from attnc.passes.backward import Derivative, lower_derivative
from attnc.schedule import Schedule
from attnc.spec import Spec

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    path for folder in ("examples", "tests/language") for path in (ROOT / folder).glob("**/*.attn")
)
SHAPES = (
    Shape(9, 11, 4, 3, 2, 2, 2, offset=2),
    Shape(7, 0, 2, 3, 2, 1, 3),
    Shape(12, 12, 4, 4, 1, 2, 1, magnitude=3.0),
)


def emits_of(spec: Spec) -> tuple[str, ...]:
    return tuple(o.array.name for o in spec.root.offered if short_name(o.array.name) == "lse")


def run(
    spec: Spec,
    schedule: Schedule,
    arrays: dict[str, Any],
    case: Case,
    tiles: tuple[int, int],
    splits: int = 1,
) -> dict[str, np.ndarray]:
    """What a schedule stores, with the defaults of what was left out."""
    runner = Interpreter(
        schedule, dict(arrays), held_tile=tiles[0], walked_tile=tiles[1], splits=splits
    )
    rows = schedule.signature.rows
    runner.starts = {axis: case.shape.offset for axis in (rows,) if axis is not None}
    for argument in schedule.signature.lengths:
        for name, place in argument.sites:
            if name in arrays:
                runner.lengths[argument.axis] = arrays[name].shape[place]
    params = dict(case.numbers)
    for number in spec.numbers:
        if number.name not in params and number.default is not None:
            env = Environment(params=params, lengths=runner.lengths, starts=runner.starts)
            params[number.name] = evaluate(number.default, env).item()
    runner.params = params
    for given in spec.inputs:
        if given.name not in arrays and given.default is not None:
            env = Environment(params=params, lengths=runner.lengths, starts=runner.starts)
            shape = [env.length(axis) for axis in given.array.axes]
            runner.arrays[given.name] = np.full(shape, evaluate(given.default, env).item())
    with np.errstate(all="ignore"):
        return runner.run()


def truth(spec: Spec, case: Case, emits: tuple[str, ...], seed: int = 0) -> tuple[Any, Any]:
    """Cotangents by output, and gradients by input, of the eager form in float64."""
    given = to_torch(case.tensors)
    leaves = {n: t.requires_grad_() for n, t in given.items() if t.is_floating_point()}
    found = load(spec)(**given, **case.numbers, **case.extras, emit=emits)
    outputs = found if isinstance(found, dict) else {"out": found}
    rng = np.random.default_rng(seed)
    cotangents = {}
    whole = torch.zeros((), dtype=torch.float64)
    for name, output in outputs.items():
        if not output.is_floating_point():
            continue
        grad = rng.normal(size=tuple(output.shape))
        grad[~np.isfinite(output.detach().numpy())] = 0.0
        cotangents[name] = grad
        whole = whole + (output.nan_to_num(0, 0, 0) * torch.from_numpy(grad)).sum()
    grads = torch.autograd.grad(whole, list(leaves.values()), allow_unused=True)
    return cotangents, {
        name: np.zeros(tuple(leaf.shape)) if grad is None else grad.numpy()
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
    }


def gradients(
    spec: Spec,
    derivative: Derivative,
    case: Case,
    cotangents: dict[str, Any],
    tiles: tuple[int, int],
    splits: int = 1,
) -> dict[str, np.ndarray]:
    """The gradients by input: forward with saved values, then backward."""
    kept = run(spec, derivative.forward, case.tensors, case, tiles)
    names = (*derivative.reads, *(array.name for array in derivative.saved))
    arrays = {**case.tensors, **{name: kept[name] for name in names}}
    arrays.update((name, cotangents[output]) for output, name in derivative.cotangents)
    stored = run(spec, derivative.backward, arrays, case, tiles, splits)
    return {name: stored[grad] for name, grad in derivative.gradients}


def close(found: Any, wanted: Any, what: str) -> None:
    size = max(np.abs(wanted).max(initial=0.0), 1e-3)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9 * size, err_msg=what)


@pytest.mark.parametrize("sweep", ["two", "one"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shelf(path: Path, sweep: Any) -> None:
    spec = read_spec(load_source(path))
    emits = emits_of(spec)
    try:
        derivative = lower_derivative(spec, emits, sweep)
    except UnsupportedError as refusal:
        assert refusal.instead == ("eager", "numpy")
        return
    runs = 0
    for seed, shape in enumerate(SHAPES):
        try:
            case = draw_case(spec, shape, seed)
        except AttncError:
            continue
        runs += 1
        cotangents, wanted = truth(spec, case, emits)
        found = gradients(spec, derivative, case, cotangents, (4, 3), 1 + seed)
        for name, grad in found.items():
            if name in wanted:  # not left to its default
                close(grad, wanted[name], f"{name} {case}")
    assert runs, "no shape made a legal call"
