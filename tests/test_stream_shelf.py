"""Every spec of the shelf that kernels can run, interpreted against the oracle; every other is
refused in the words of the feature list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from attnc.backends.numpy_oracle import evaluate as oracle
from schedule_interpreter import Interpreter

from attnc.cases import Case, Shape, draw_case
from attnc.compiler import short_name
from attnc.errors import AttncError, UnsupportedError, ValueRangeError
from attnc.expressions.evaluate import Environment, evaluate
from attnc.front import load_source, read_spec
from attnc.passes import lower
from attnc.schedule import Schedule
from attnc.spec import Spec

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    path for folder in ("examples", "tests/language") for path in (ROOT / folder).glob("**/*.attn")
)
SHAPES = (
    Shape(9, 11, 4, 3, 2, 2, 2, offset=2),
    Shape(1, 5, 6, 1, 1, 1, 1, offset=4),
    Shape(7, 0, 2, 3, 2, 1, 3),
    Shape(12, 12, 4, 4, 1, 2, 1, magnitude=40.0),
    Shape(100, 100, 2, 2, 1, 1, 1),
)
# Exponentials of a feature map are formed before the product, in kernels as in torch: far from 1
# they have no common reference that could be cancelled.
EXPONENTIAL_FEATURES = ("performer",)


def schedule_of(spec: Spec) -> tuple[Schedule, tuple[str, ...]]:
    emits = tuple(o.array.name for o in spec.root.offered if short_name(o.array.name) == "lse")
    return lower(spec, emits), emits


def interpreted(
    spec: Spec, schedule: Schedule, case: Case, tiles: tuple[int, int]
) -> dict[str, np.ndarray]:
    """The outputs of a schedule for a case, with the defaults of what was left out."""
    runner = Interpreter(schedule, dict(case.tensors), held_tile=tiles[0], walked_tile=tiles[1])
    rows = schedule.signature.rows
    runner.starts = {axis: case.shape.offset for axis in (rows,) if axis is not None}
    for argument in schedule.signature.lengths:
        for name, place in argument.sites:
            if name in case.tensors:
                runner.lengths[argument.axis] = case.tensors[name].shape[place]
    params = dict(case.numbers)
    for number in spec.numbers:
        if number.name not in params and number.default is not None:
            env = Environment(params=params, lengths=runner.lengths, starts=runner.starts)
            params[number.name] = evaluate(number.default, env).item()
    runner.params = params
    for given in spec.inputs:
        if given.name not in case.tensors and given.default is not None:
            env = Environment(params=params, lengths=runner.lengths, starts=runner.starts)
            shape = [env.length(axis) for axis in given.array.axes]
            runner.arrays[given.name] = np.full(shape, evaluate(given.default, env).item())
    return runner.run()


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shelf(path: Path) -> None:
    spec = read_spec(load_source(path))
    try:
        schedule, emits = schedule_of(spec)
    except UnsupportedError as refusal:
        assert refusal.instead == ("eager", "numpy")
        return
    runs = 0
    for seed, shape in enumerate(SHAPES):
        if runs and shape.rows == 100:
            continue  # only for what needs a large map
        if path.stem in EXPONENTIAL_FEATURES and shape.magnitude > 10:
            continue
        try:
            case = draw_case(spec, shape, seed)
        except AttncError:
            continue
        runs += 1
        try:
            wanted = oracle(spec, case.tensors, case.numbers, offset=shape.offset, emit=emits)
        except ValueRangeError:  # a number that the text divides by was drawn 0
            runs -= 1
            continue
        names = [argument.name for argument in schedule.signature.outputs]
        for tiles in ((4, 3), (64, 64)):
            found = interpreted(spec, schedule, case, tiles)
            for name, key in zip(names, ("out", *emits), strict=True):
                np.testing.assert_allclose(
                    found[name], wanted[key], rtol=1e-8, atol=1e-8, err_msg=f"{name} {case}"
                )
    assert runs, "no shape made a legal call"
