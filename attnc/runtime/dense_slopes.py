"""Derivatives of a backward that no kernel makes: torch's own, of the dense formula.

Memory grows with rows times keys, so a call beyond the limit for numbers of pairs is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from attnc.runtime.arguments import call_of, check_room, unflatten
from attnc.runtime.eager_calls import vjp
from attnc.runtime.family import Formula
from attnc.runtime.forms import exact_region

Values = dict[str, torch.Tensor]


def pull_by_torch(
    operator: Any,
    formula: Formula,
    flat: Sequence[Any],
    given: Mapping[str, Any],
    places: Sequence[int],
) -> dict[int, torch.Tensor]:
    """The gradients of a flat call of a backward, by the place of the argument.

    operator   the backward
    formula    the dense formula of what it is the backward of
    given      cotangents of its outputs by name; None or absent is zero
    places     the arguments whose gradients are wanted

    Raises ValueRangeError where one number for each pair of row and key is beyond the limit."""
    names = [slot.name for slot in operator.signature.inputs]
    links = operator.kernels.links
    smooth = {name for pair in links.cotangents for name in pair[1:]}
    smooth |= {name for name, _ in links.gradients}
    wanted = [p for p in places if p < len(names) and names[p] in smooth]
    cotangents = {name: value for name, value in given.items() if value is not None}
    if not wanted or not cotangents:
        return {}
    gradients = gradients_by_torch(operator, formula, flat)

    def changed(values: Values) -> Values:
        made = gradients(values)
        return {name: made[name].to(value.dtype) for name, value in cotangents.items()}

    with exact_region(flat[wanted[0]].device):
        _, pull = vjp(changed, {names[place]: flat[place] for place in wanted})
        (found,) = pull(cotangents)
    return {place: found[names[place]] for place in wanted}


def gradients_by_torch(operator: Any, formula: Formula, flat: Sequence[Any]) -> Any:
    """What a backward gives, by name, as a function of those of its inputs that move."""
    signature, links = operator.signature, operator.kernels.links
    tensors, numbers, extras = unflatten(signature, flat)
    extras.pop("dtype", None)
    _check_pairs(operator, flat)
    result = operator.family.kernel_set("").signature.outputs[0].name
    met = (name for name, given in links.cotangents if given in tensors)
    emit = tuple(name for name in met if name != result)
    inputs = [slot.name for slot in operator.family.kernel_set("").signature.inputs]
    known = {name: tensors.get(name) for name in inputs} | numbers

    def outputs(values: Values, cotangents: Values) -> Values:
        renamed = {formula.names.get(n, n): x for n, x in (known | values).items()}
        made = formula.function(**renamed, **extras, emit=emit)
        return {
            name: made["out" if name == result else name].to(cotangent.dtype)
            for name, cotangent in cotangents.items()
        }

    def gradients(values: Values) -> Values:
        every = tensors | values
        pairs = links.cotangents
        cotangents = {name: every[given] for name, given in pairs if given in every}
        moving = {name: every[name] for name, _ in links.gradients if name in every}
        _, pull = vjp(lambda own: outputs(own, cotangents), moving)
        (found,) = pull(cotangents)
        return {made: found[name] for name, made in links.gradients if name in found}

    return gradients


def _check_pairs(operator: Any, flat: Sequence[Any]) -> None:
    """Refuses a call whose pairs of rows and keys are too many for the dense formula."""
    call = call_of(operator.signature, flat)
    axes = ("b", "h", operator.signature.rows, operator.signature.keys)
    shape = [call.known[f"len_{axis}"] for axis in axes if f"len_{axis}" in call.known]
    check_room(call, "second order", "the pairs, by torch,", shape, call.accumulate)
