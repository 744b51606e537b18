"""Derivatives as schedules: what is saved, what is recomputed, and which kernel holds what.

    lower_derivative(spec, emit, sweep)    -> Derivative(forward, backward, saved, reads)
    lower_second(spec, emit)               -> Schedule   the backward's own backward, nothing saved
    lower_tangent(spec, emit)              -> Schedule   the outputs, then their tangents
    prune.only(schedule, wanted)           -> Schedule   without what only other outputs need

Signature of a backward: the operator's inputs (in its order), then what the forward gave (`reads`:
outputs by their own names, then `saved`, in the accumulation type), then one cotangent for each
differentiable output (`<output>_grad`). Outputs: `<input>_grad` for each real input that the
outputs depend on, in the order of the inputs; in the query dtype for q, k, v and their like, in the
accumulation type for other inputs.

Kernels of a backward, in this order: maps that prepare operands and row values (delta); loops that
hold rows (`sweep="two"`) or none of these; loops that hold keys, `around` the heads of a key head
(and around batch, where the gradient has none), which with `sweep="one"` deposit what rows get;
maps that finish: sums over shares (`split`), batch and rows in a fixed order, rotations and norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from attnc.expressions.tree import Array
from attnc.passes.reductions import refuse
from attnc.schedule import Schedule
from attnc.spec import Spec

Sweep = Literal["one", "two"]


@dataclass(frozen=True)
class Derivative:
    """A forward that keeps what its backward reads, and that backward.

    forward    the operator's outputs, then the saved ones (TensorArguments of role output, dtype
               "accumulate")
    backward   see the module
    reads      outputs of the forward that the backward takes as inputs, by name (`out`)
    saved      the further outputs of the forward, inputs of the backward, by name
    cotangents for each output of the operator that can be differentiated, its name and the name of
               its cotangent
    gradients  for each input that has a gradient, its name and the name of the gradient
    """

    forward: Schedule
    backward: Schedule
    reads: tuple[str, ...]
    saved: tuple[Array, ...]
    cotangents: tuple[tuple[str, str], ...]
    gradients: tuple[tuple[str, str], ...]


def lower_derivative(spec: Spec, emit: Sequence[str] = (), sweep: Sweep = "two") -> Derivative:
    """The forward that saves and the backward of an operator and the emits asked for.

    Raises UnsupportedError for what kernels cannot run yet."""
    raise refuse("backward")


def lower_second(spec: Spec, emit: Sequence[str] = ()) -> Schedule:
    """The derivative of the derivative: of every gradient by every input and cotangent."""
    raise refuse("second_order")


def lower_tangent(spec: Spec, emit: Sequence[str] = ()) -> Schedule:
    """The operator's outputs and their tangents, along `<input>_dot` of every real input."""
    raise refuse("forward_mode")
