"""Derivative schedules run by the interpreter, and what the eager form's float64 autograd says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from eager_loader import load, to_torch
from schedule_interpreter import Interpreter

from attnc.cases import Case, Shape
from attnc.compiler import short_name
from attnc.expressions.evaluate import Environment, evaluate
from attnc.expressions.tree import number
from attnc.front import load_source, read_spec
from attnc.passes.backward import Derivative
from attnc.schedule import Schedule
from attnc.spec import Spec

ROOT = Path(__file__).resolve().parent.parent
ORDINARY = Shape(6, 7, 4, 3, 2, 2, 2, offset=2)
EMPTY = Shape(4, 0, 2, 3, 2, 1, 3)
HOSTILE = Shape(12, 12, 4, 4, 1, 2, 2, magnitude=60.0)


def spec_of(name: str) -> Spec:
    return read_spec(load_source(ROOT / "examples" / f"{name}.attn"))


def emits_of(spec: Spec) -> tuple[str, ...]:
    return tuple(o.array.name for o in spec.root.offered if short_name(o.array.name) == "lse")


def run(
    spec: Spec,
    schedule: Schedule,
    arrays: dict[str, Any],
    case: Case,
    tiles: tuple[int, int] = (4, 3),
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
    for one in spec.numbers:
        if one.name not in params and one.default is not None:
            env = Environment(params=params, lengths=runner.lengths, starts=runner.starts)
            params[one.name] = evaluate(one.default, env).item()
    runner.params = params
    for given in schedule.signature.inputs:
        # Nothing is pushed into the gradient of what was left out.
        pushed = number(0.0) if given.name.endswith("_grad_grad") else None
        default = pushed if given.default is None else given.default
        if given.name not in arrays and default is not None:
            env = Environment(params=params, lengths=runner.lengths, starts=runner.starts)
            shape = [env.length(axis) for axis in given.array.axes]
            runner.arrays[given.name] = np.full(shape, evaluate(default, env).item())
    with np.errstate(all="ignore"):
        return runner.run()


def leaves_of(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of a call, and those among them that can be differentiated by."""
    given = to_torch(case.tensors)
    return given, {n: t.requires_grad_() for n, t in given.items() if t.is_floating_point()}


def cotangents_of(outputs: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """A random cotangent of each real output, 0 where the output is not finite."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, output in outputs.items():
        if output.is_floating_point():
            grad = rng.normal(size=tuple(output.shape))
            grad[~np.isfinite(output.detach().numpy())] = 0.0
            found[name] = grad
    return found


def truth(
    spec: Spec, case: Case, emits: tuple[str, ...] = ()
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Cotangents by output, and gradients by input, of the eager form in float64."""
    given, leaves = leaves_of(case)
    outputs = load(spec)(**given, **case.numbers, **case.extras, emit=emits)
    cotangents = cotangents_of(outputs)
    whole = sum(
        (
            (outputs[n].nan_to_num(0, 0, 0) * torch.from_numpy(c)).sum()
            for n, c in cotangents.items()
        )
    )
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
    tiles: tuple[int, int] = (4, 3),
    splits: int = 1,
    outputs: str = "float64",
) -> dict[str, np.ndarray]:
    """The gradients by input: the forward with its saved values, then the backward, which reads the
    forward's outputs as they are in the dtype `outputs`."""
    kept = run(spec, derivative.forward, case.tensors, case, tiles)
    kept.update((name, kept[name].astype(outputs)) for name in derivative.reads)
    names = (*derivative.reads, *(array.name for array in derivative.saved))
    arrays = {**case.tensors, **{name: kept[name] for name in names}}
    arrays.update((name, cotangents[output]) for output, name in derivative.cotangents)
    stored = run(spec, derivative.backward, arrays, case, tiles, splits)
    return {name: stored[grad] for name, grad in derivative.gradients if grad in stored}


def error(found: Any, wanted: Any) -> float:
    """The greatest difference, relative to the greatest entry; infinite where one is NaN."""
    size = max(np.abs(wanted).max(initial=0.0), 1e-3)
    worst = float(np.abs(found - wanted).max(initial=0.0) / size)
    return worst if np.isfinite(worst) else np.inf
