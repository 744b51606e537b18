"""Derivatives of an operator for autograd and torch.func: its backward, tangent and vmap.

A derivative is an operator of the same family. The forward of a Function runs the training form of
the operator, whose further outputs are what the backward reads; what no gradient can be asked of
runs the plain form, and a backward of it recomputes. Saved outputs are no variables: the derivative
of a backward is that of the whole formula, which holds them as functions of the inputs.

What cannot be derived raises UnsupportedError when it is asked for, and is never zero.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import torch

from attnc.runtime.arguments import (
    absent,
    call_of,
    flatten,
    mask_of,
    names_of,
    unflatten,
)
from attnc.runtime.batching import call_batched
from attnc.runtime.dense_slopes import pull_by_torch
from attnc.runtime.failures import UnsupportedError
from attnc.runtime.family import SHARDS
from attnc.runtime.forms import forward_ad, gradient_wanted
from attnc.runtime.forward_mode import outputs_and_tangents, pushed, variant_of
from attnc.runtime.slots import Call, Signature, TensorSlot
from attnc.runtime.training import TrainingPlan, kept_names

# Which set is the backward of which, and which its training form.
PULLBACKS = {
    "": ("backward", "training"),
    "emits": ("backward_emits", "training_emits"),
    "continued": ("continued_backward_emits", "continued_training_emits"),
    "backward": ("second", ""),
    "backward_emits": ("second_emits", ""),
    **{form: (f"{form}_backward", "") for form in SHARDS},
    **{f"{form}_backward": (f"{form}_second", "") for form in SHARDS},
}


class Derivatives:
    """What autograd asks of one operator. `operator` is a KernelOperator."""

    def __init__(self, operator: Any) -> None:
        self.operator = operator
        self._functions: dict[tuple[str, bool], Any] = {}

    def dispatched(self, *flat: Any) -> tuple[torch.Tensor, ...]:
        """The torch operator's Autograd key."""
        tensors = [x for x in flat if isinstance(x, torch.Tensor)]
        dual = any(forward_ad.unpack_dual(x).tangent is not None for x in tensors)
        if dual or (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)):
            return self.apply(flat)
        with torch._C._AutoDispatchBelowAutograd():
            return self.operator.handle(*flat)  # type: ignore[no-any-return]

    def apply(self, flat: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
        """The operator's outputs through its Function."""
        found = None if gradient_wanted(flat) else pushed(self.operator, flat)
        if found is not None:
            return found
        signature = self.operator.signature
        wanted = names_of(signature, flat[-1])
        emits = any(slot.name in wanted for slot in signature.outputs[signature.results :])
        variant = variant_of(self.operator, flat) or ("emits" if emits else "")
        training = self._training(variant) if gradient_wanted(flat) else None
        key = (variant, training is not None)
        if key not in self._functions:
            self._functions[key] = function_of(self.operator, variant, training)
        outputs = self._functions[key].apply(*flat)
        if training is None:
            return outputs  # type: ignore[no-any-return]
        made = {s.name: x for s, x in zip(training.signature.outputs, outputs, strict=True)}
        device = outputs[0].device
        return tuple(
            made[slot.name] if slot.name in wanted else absent(device) for slot in signature.outputs
        )

    def plan(
        self,
        call: Call,
        numbers: dict[str, Any],
        extras: dict[str, Any],
        wanted: frozenset[str],
        emits: bool,
    ) -> TrainingPlan | None:
        """What repeats this call with gradients; None where that is not derived, or where the call
        holds what the form of a call does not tell (offsets in tensors)."""
        if any(isinstance(value, torch.Tensor) for value in extras.values()):
            return None
        variant = "emits" if emits else ""
        training = None if self.operator.name else self._training(variant)
        if training is None:
            return None
        backward = self.operator.family.operator(PULLBACKS[variant][0])
        pull = partial(pull_back, self.operator, variant)
        arguments = (numbers, extras)
        return TrainingPlan(self.operator, training, backward, call, arguments, wanted, pull)

    def _training(self, variant: str) -> Any:
        """The training form; None where there is none, or the backward has been refused (which is
        said when it is asked for)."""
        backward, training = PULLBACKS.get(variant, ("", ""))
        if not training:
            return None
        try:
            self.operator.family.kernel_set(backward)
            return self.operator.family.operator(training)
        except UnsupportedError:
            return None


def function_of(operator: Any, variant: str, training: Any) -> Any:
    """The autograd Function of an operator: of its training form, or (None) of itself."""
    forward_form = training or operator
    signature = operator.signature
    slots = forward_form.signature.outputs
    keeping = training is not None or variant in SHARDS  # what its backward reads
    moving = _moving(operator, variant)

    class Function(torch.autograd.Function):
        """An operator for autograd: what it cannot derive, it refuses."""

        @staticmethod
        def forward(*flat: Any) -> Any:
            given = keeping_call(signature, training, flat) if training else flat
            with torch._C._AutoDispatchBelowAutograd():
                return forward_form.handle(*given)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            keep(ctx, inputs, output)
            smooth = names_of(signature, inputs[-1]) & moving
            ctx.mark_non_differentiable(
                *(one for slot, one in zip(slots, output, strict=True) if slot.name not in smooth)
            )
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            nothing = (None,) * len(ctx.rest)
            if all(cotangent is None for cotangent in cotangents):
                return nothing
            flat, outputs = kept(ctx)
            names = [slot.name for slot in slots]
            made = dict(zip(names, outputs, strict=True)) if keeping else None
            places = [place for place, need in enumerate(ctx.needs_input_grad) if need]
            given = dict(zip(names, cotangents, strict=True))
            found = pull_back(operator, variant, flat, made, given, places)
            return tuple(found.get(place) for place in range(len(nothing)))

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            return push_forward(operator, training, ctx, tangents)

        @staticmethod
        def vmap(info: Any, in_dims: Any, *flat: Any) -> Any:
            given = keeping_call(signature, training, flat) if training else flat
            return call_batched(forward_form, info.batch_size, in_dims, given)

    return Function


def keeping_call(signature: Signature, training: Any, flat: Sequence[Any]) -> tuple[Any, ...]:
    """The flat call of a training form: what is wanted of the operator, and what is kept."""
    form = training.signature
    wanted = names_of(signature, flat[-1])
    return (*flat[:-1], mask_of(form, kept_names(signature, form, wanted)))


def _moving(operator: Any, variant: str) -> frozenset[str]:
    """The outputs that have a derivative: the real ones, but of a partial result what it is
    relative to."""
    real = frozenset(s.name for s in operator.signature.outputs if s.dtype not in ("int", "bool"))
    if variant not in SHARDS:
        return real
    try:
        links = operator.family.kernel_set(PULLBACKS[variant][0]).links
    except UnsupportedError:
        return real
    return frozenset(name for name, _ in links.cotangents)


def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    """Saves a flat call and its outputs."""
    tensors = [x for x in inputs if isinstance(x, torch.Tensor)]
    ctx.save_for_backward(*tensors, *output)
    ctx.save_for_forward(*tensors, *output)
    ctx.rest = [None if isinstance(x, torch.Tensor) else (x,) for x in inputs]


def kept(ctx: Any) -> tuple[list[Any], list[Any]]:
    """The flat call and the outputs that `keep` saved."""
    saved = iter(ctx.saved_tensors)
    flat = [next(saved) if rest is None else rest[0] for rest in ctx.rest]
    return flat, list(saved)


def pull_back(
    operator: Any,
    variant: str,
    flat: Sequence[Any],
    made: dict[str, Any] | None,
    given: dict[str, Any],
    places: Sequence[int],
) -> dict[int, torch.Tensor]:
    """The gradients of a flat call by the place of the argument; of an argument that no output
    depends on there is none.

    made      what the backward reads of the forward, by name (None: it is computed again)
    given     cotangents of outputs by name; None or absent is zero
    places    the arguments whose gradients are wanted"""
    if variant.partition("_")[0] == "tangent":
        return pull_tangent(operator, flat, given, places)
    signature = operator.signature
    name = PULLBACKS.get(variant, (f"backward_of_{variant}",))[0]
    formula = operator.family.formula(name, _device(flat))
    if formula is not None:
        return pull_by_torch(operator, formula, flat, given, places)
    backward = operator.family.operator(name)
    links, form = backward.kernels.links, backward.signature
    names = dict(links.gradients)
    inputs = [slot.name for slot in signature.inputs]
    wanted = {names[inputs[p]]: p for p in places if p < len(inputs) and inputs[p] in names}
    if not wanted:
        return {}
    if made is None:
        made = recompute(operator, variant, flat) if links.reads or links.saved else {}
    request = backward_call(operator, backward, flat, made, given, wanted)
    results = backward.invoke(request)
    return {
        wanted[slot.name]: result.to(flat[wanted[slot.name]].dtype)
        for slot, result in zip(form.outputs, results, strict=True)
        if slot.name in wanted
    }


def backward_call(
    operator: Any,
    backward: Any,
    flat: Sequence[Any],
    made: dict[str, Any],
    given: dict[str, Any],
    wanted: Collection[str],
) -> tuple[Any, ...]:
    """The flat call of a backward for these of its outputs (see `pull_back`)."""
    links, form = backward.kernels.links, backward.signature
    tensors, numbers, extras = unflatten(operator.signature, flat)
    known = {slot.name for slot in form.inputs}
    values = {name: x for name, x in tensors.items() if name in known}
    values.update({name: made[name] for name in (*links.reads, *links.saved)})
    call = call_of(operator.signature, flat)
    spared = {slot.name for slot in form.inputs if slot.absent}
    for name, cotangent in links.cotangents:
        slot = next(slot for slot in operator.signature.outputs if slot.name == name)
        value = given.get(name)
        if value is not None or cotangent not in spared:
            values[cotangent] = _zeros(call, slot) if value is None else value
    extras.pop("dtype", None)
    return flatten(form, values, numbers, extras, mask_of(form, wanted))


def pull_tangent(
    operator: Any, flat: Sequence[Any], given: dict[str, Any], places: Sequence[int]
) -> dict[int, torch.Tensor]:
    """The gradients of f(x) and of its tangent f'(x) t (see `pull_back`), by other derivatives of
    f. With the cotangents c and w: by t the gradient of <w, f>, by x that of <c, f> and how the
    gradient of <w, f> moves along t, which is what its own backward gives (second derivatives are
    symmetric)."""
    family, links = operator.family, operator.kernels.links
    primal = family.operator("")
    own, dots = primal.signature, dict(links.cotangents)
    tensors, numbers, extras = unflatten(operator.signature, flat)
    of_values = {slot.name: given.get(slot.name) for slot in own.outputs}
    of_moves = {name: given.get(dot) for name, dot in links.gradients}
    pulled = {n for of in (of_values, of_moves) for n, x in of.items() if x is not None}
    variant = "emits" if pulled & {slot.name for slot in own.outputs[own.results :]} else ""
    plain = flatten(own, tensors, numbers, extras, mask_of(own, pulled))
    made = recompute(primal, variant, plain)
    names = [slot.name for slot in own.inputs]
    wanted = {operator.signature.inputs[place].name: place for place in places}
    by_values = {names.index(n): place for n, place in wanted.items() if n in names}
    by_moves = {names.index(n): wanted[dot] for n, dot in dots.items() if dot in wanted}
    parts = [
        (pull_back(primal, variant, plain, made, of, [*by]), by)
        for of, by in ((of_values, by_values), (of_moves, by_moves))
        if any(x is not None for x in of.values())
    ]
    if by_values and any(x is not None for x in of_moves.values()):
        backward = family.operator(PULLBACKS[variant][0])
        gradients = dict(backward.kernels.links.gradients)
        first = backward_call(primal, backward, plain, made, of_moves, gradients.values())
        along = {gradients[n]: tensors.get(dot) for n, dot in dots.items() if n in gradients}
        inputs = [slot.name for slot in backward.signature.inputs]
        by = {inputs.index(names[place]): to for place, to in by_values.items()}
        again = "backward_emits" if variant else "backward"
        parts.append((pull_back(backward, again, first, None, along, [*by]), by))
    found: dict[int, torch.Tensor] = {}
    for part, by in parts:
        for place, gradient in part.items():
            to = by[place]
            found[to] = found[to] + gradient if to in found else gradient
    return found


def recompute(operator: Any, variant: str, flat: Sequence[Any]) -> dict[str, torch.Tensor]:
    """What the backward reads of a forward that did not keep it. It is no variable (see above)."""
    training = operator.family.operator(PULLBACKS[variant][1])
    form, links = training.signature, operator.family.operator(PULLBACKS[variant][0]).kernels.links
    names = (*links.reads, *links.saved)
    with torch.no_grad():
        outputs = training.invoke((*flat[:-1], mask_of(form, names)))
    made = {slot.name: x for slot, x in zip(form.outputs, outputs, strict=True)}
    return {name: made[name].detach() for name in names}


def push_forward(operator: Any, training: Any, ctx: Any, tangents: tuple[Any, ...]) -> Any:
    """The tangents of the outputs of a flat call."""
    flat, outputs = kept(ctx)
    slots = (training or operator).signature.outputs
    count = len(operator.signature.inputs)
    made = dict(zip((slot.name for slot in slots), outputs, strict=True))
    _, dots = outputs_and_tangents(operator, flat, tangents[:count], made)
    return tuple(dots.get(slot.name) for slot in slots)


def _device(flat: Sequence[Any]) -> str:
    """The type of the device of a flat call's tensors."""
    return next((x.device.type for x in flat if isinstance(x, torch.Tensor)), "cpu")


def _zeros(call: Any, slot: TensorSlot) -> torch.Tensor:
    """The cotangent of an output that nobody used: one zero, spread."""
    zero = torch.zeros((), dtype=call.new_output_dtype(slot), device=call.device)
    return zero.expand(call.shape(slot))
