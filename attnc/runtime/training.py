"""Calls that want a gradient and nothing else: forward and backward as prepared kernels, without
the torch operators between.

What happens in a backward that wants gradients itself, or under a transform, is left to the general
way (see autograd)."""

from __future__ import annotations

from typing import Any

import torch

from attnc.runtime.arguments import flatten, mask_of
from attnc.runtime.call import check_call
from attnc.runtime.forms import is_dense, is_own, is_watched
from attnc.runtime.slots import Call, Signature

BACKWARDS_KEPT = 16  # forms of cotangents that a plan remembers


class TrainingPlan:
    """One form of call with gradients: `plan(tensors)` gives the outputs in the order of the
    operator's signature, None for those not wanted.

    operator    the KernelOperator that is called
    training    its training form; `run` is that, prepared
    pull        (flat call, outputs by name, cotangents by name, places) -> gradients by place,
                the general way
    """

    def __init__(
        self,
        operator: Any,
        training: Any,
        backward: Any,
        call: Call,
        arguments: tuple[dict[str, Any], dict[str, Any]],
        wanted: frozenset[str],
        pull: Any,
    ) -> None:
        self.operator, self.training, self.backward, self.pull = operator, training, backward, pull
        self.numbers, self.extras = arguments
        self.wanted = wanted
        self.device = call.device.type
        self.needed = kept_names(operator.signature, training.signature, wanted)
        self.run = self._prepare(training, call, self.needed)
        slots = operator.signature.outputs
        made = [slot.name for slot in training.signature.outputs]
        self.results = [made.index(slot.name) for slot in slots if slot.name in wanted]
        self.places = [slot.name in wanted for slot in slots]
        links = backward.kernels.links
        self.names = [slot.name for slot in operator.signature.inputs]
        self.kept = [made.index(name) for name in (*links.reads, *links.saved)]
        self.kept_names = (*links.reads, *links.saved)
        self.returned = [made[place] for place in self.results]
        self.cotangents = dict(links.cotangents)
        self.gradients = dict(links.gradients)
        self._backs: dict[Any, Any] = {}

    def _prepare(self, operator: Any, call: Call, wanted: frozenset[str]) -> Any:
        """The call on the kernels of an operator, prepared if its backend can."""
        backend = operator.backends.get(self.device)
        prepare = getattr(backend, "prepare", None)
        return prepare(self._rebound(operator, call.tensors, call), wanted) if prepare else None

    def _rebound(self, operator: Any, tensors: dict[str, Any], call: Call | None = None) -> Call:
        """The checked call of another operator of the family on these tensors."""
        names = {slot.name for slot in operator.signature.inputs}
        present = {n: x for n, x in tensors.items() if n in names and x is not None}
        if call is not None:
            present = {n: x for n, x in present.items() if n in call.given}
        return check_call(operator.signature, present, self.numbers, self.extras)

    def __call__(self, tensors: list[Any]) -> list[Any] | None:
        made = iter(Trained.apply(self, *tensors))  # type: ignore[no-untyped-call]
        return [next(made) if place else None for place in self.places]

    def forward(self, tensors: tuple[Any, ...]) -> Any:
        """The outputs of the training form, None for emits that are not wanted."""
        outputs = self.run(list(tensors)) if self.run is not None else None
        if outputs is not None:
            return outputs
        call = self._rebound(self.training, dict(zip(self.names, tensors, strict=True)))
        return self.training.run(call, self.needed)

    def pull_back(
        self, needs: tuple[bool, ...], saved: tuple[Any, ...], cotangents: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """The gradients of the inputs, None where none is wanted or none exists."""
        count = len(self.names)
        tensors, kept = saved[:count], saved[count:]
        key = None if torch.is_grad_enabled() or is_watched() else _form(needs, cotangents)
        if key is None:
            return self._general(needs, tensors, kept, cotangents)
        back = self._backs.get(key)
        if back is None:
            back = self._backward(needs, tensors, kept, cotangents)
            while len(self._backs) >= BACKWARDS_KEPT:
                self._backs.pop(next(iter(self._backs)), None)
            self._backs[key] = back
        run, zeros, order = back
        if run is not None:
            given = (*tensors, *kept, *cotangents)
            results = run(
                [zeros.get(n) if isinstance(n, str) else given[n] for n in order]  # None: absent
            )
            if results is not None:
                return self._placed(needs, tensors, results)
        return self._general(needs, tensors, kept, cotangents)

    def _backward(
        self,
        needs: tuple[bool, ...],
        tensors: tuple[Any, ...],
        kept: tuple[Any, ...],
        cotangents: tuple[Any, ...],
    ) -> tuple[Any, dict[str, torch.Tensor], list[Any]]:
        """(prepared backward, the cotangents that are zero, where each of its inputs is found among
        the tensors, what was kept and the cotangents)."""
        wanted = frozenset(
            self.gradients[n]
            for n, need in zip(self.names, needs, strict=True)
            if need and n in self.gradients
        )
        call = self._rebound(self.operator, dict(zip(self.names, tensors, strict=True)))
        given = dict(zip(self.returned, cotangents, strict=True))
        values: dict[str, Any] = dict(zip(self.names, tensors, strict=True))
        values.update(zip(self.kept_names, kept, strict=True))
        found: dict[str, Any] = {name: place for place, name in enumerate(self.names)}
        count = len(self.names)
        found.update((n, count + place) for place, n in enumerate(self.kept_names))
        zeros = {}
        spared = {slot.name for slot in self.backward.signature.inputs if slot.absent}
        for name, cotangent in self.cotangents.items():
            value = given.get(name)
            if value is None and cotangent in spared:
                found[cotangent] = cotangent
                continue
            if value is None:
                slot = next(s for s in self.operator.signature.outputs if s.name == name)
                zero = torch.zeros((), dtype=call.new_output_dtype(slot), device=call.device)
                zeros[cotangent] = value = zero.expand(call.shape(slot))
                found[cotangent] = cotangent
            else:
                found[cotangent] = count + len(kept) + self.returned.index(name)
            values[cotangent] = value
        prepare = getattr(self.backward.backends.get(self.device), "prepare", None)
        run = prepare(self._rebound(self.backward, values), wanted) if prepare and wanted else None
        return run, zeros, [found[slot.name] for slot in self.backward.signature.inputs]

    def _placed(
        self, needs: tuple[bool, ...], tensors: tuple[Any, ...], results: Any
    ) -> tuple[Any, ...]:
        """The results of the backward beside the inputs, in their dtypes."""
        made = {s.name: x for s, x in zip(self.backward.signature.outputs, results, strict=True)}
        gradients = []
        for name, need, tensor in zip(self.names, needs, tensors, strict=True):
            one = made.get(self.gradients.get(name, "")) if need else None
            gradients.append(
                one if one is None or one.dtype is tensor.dtype else one.to(tensor.dtype)
            )
        return tuple(gradients)

    def _general(
        self,
        needs: tuple[bool, ...],
        tensors: tuple[Any, ...],
        kept: tuple[Any, ...],
        cotangents: tuple[Any, ...],
    ) -> tuple[Any, ...]:
        signature = self.operator.signature
        given = {n: x for n, x in zip(self.names, tensors, strict=True) if x is not None}
        mask = mask_of(signature, self.wanted)
        flat = flatten(signature, given, self.numbers, self.extras, mask)
        made = dict(zip(self.kept_names, kept, strict=True))
        by_name = dict(zip(self.returned, cotangents, strict=True))
        places = [place for place, need in enumerate(needs) if need]
        gradients = self.pull(flat, made, by_name, places)
        return tuple(gradients.get(place) for place in range(len(self.names)))


def kept_names(own: Signature, form: Signature, wanted: frozenset[str]) -> frozenset[str]:
    """What a training form makes: all but the emits of its operator that are not wanted."""
    emits = {slot.name for slot in own.outputs[own.results :]}
    return frozenset(slot.name for slot in form.outputs) - (emits - wanted)


class Trained(torch.autograd.Function):
    """A call with gradients by its plan."""

    @staticmethod
    def forward(ctx: Any, plan: TrainingPlan, *tensors: Any) -> Any:
        outputs = plan.forward(tensors)
        ctx.plan = plan
        ctx.save_for_backward(*tensors, *(outputs[place] for place in plan.kept))
        ctx.set_materialize_grads(False)
        results = tuple(outputs[place] for place in plan.results)
        fixed = [one for one in results if not one.is_floating_point()]
        if fixed:
            ctx.mark_non_differentiable(*fixed)
        return results

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        if all(one is None for one in cotangents):
            return (None,) * len(ctx.needs_input_grad)
        return (None, *ctx.plan.pull_back(ctx.needs_input_grad[1:], ctx.saved_tensors, cotangents))


def _form(needs: tuple[bool, ...], cotangents: tuple[Any, ...]) -> Any:
    """All of a backward but its data; None if it is not plain."""
    parts: list[Any] = [needs, torch.get_num_threads()]
    for one in cotangents:
        if one is None:
            parts.append(None)
        elif type(one) is torch.Tensor and is_dense(one) and is_own(one) and not one.is_neg():
            parts.append((one.stride(), one.dtype))
        else:
            return None
    return tuple(parts)
