"""Forward mode: outputs and their tangents by one kernel, for the tangents that are there.

Where forward mode alone asks (dual tensors, torch.func.jvp), this kernel runs in the operator's
place, so that weights are computed once. Beside reverse mode the Function's forward has run before,
and the kernel gives what is missing (see autograd).

A tangent that is not there costs nothing: for each set of inputs that move there is a kernel set,
made when it is first asked for. A module that stands alone has the one of all tangents; there those
that are missing are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._functorch.pyfunctorch import temporarily_pop_interpreter_stack

from attnc.runtime.arguments import absent, flatten, mask_of, names_of, unflatten
from attnc.runtime.failures import UnsupportedError
from attnc.runtime.family import SHARDS
from attnc.runtime.forms import forward_ad

TANGENTS = {
    "": "tangent",
    "backward": "backward_tangent",
    "backward_emits": "backward_emits_tangent",
    **{f"{form}{of}": f"{form}{of}_tangent" for form in SHARDS for of in ("", "_backward")},
}


def pushed(operator: Any, flat: tuple[Any, ...]) -> tuple[torch.Tensor, ...] | None:
    """The outputs of a flat call as dual tensors; None where no input has a tangent, where another
    transform than forward mode is live, or where there is no such kernel (which is said when the
    tangents are asked for)."""
    if forward_ad._current_level < 0 or not _forward_alone() or any(map(_trains, flat)):
        return None
    count = len(operator.signature.inputs)
    pairs = [
        forward_ad.unpack_dual(x) if isinstance(x, torch.Tensor) else (x, None)
        for x in flat[:count]
    ]
    if all(tangent is None for _, tangent in pairs):
        return None
    primals = (*(primal for primal, _ in pairs), *flat[count:])
    tangents = tuple(tangent for _, tangent in pairs)
    try:
        outputs, dots = outputs_and_tangents(operator, primals, tangents)
    except UnsupportedError:
        return None
    made = []
    for slot in operator.signature.outputs:
        output = outputs.get(slot.name)
        dot = dots.get(slot.name)
        if output is None:
            output = absent(next(iter(outputs.values())).device)
        made.append(output if dot is None else forward_ad.make_dual(output, dot))
    return tuple(made)


def _forward_alone() -> bool:
    """Whether every live transform is forward mode."""
    stack = torch._C._functorch.get_interpreter_stack()
    forward = torch._C._functorch.TransformType.Jvp
    return stack is None or all(level.key() == forward for level in stack)


def _trains(x: Any) -> bool:
    """Whether somebody around the transforms wants a gradient of a tensor."""
    if not isinstance(x, torch.Tensor) or not torch.is_grad_enabled():
        return False
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    return bool(x.requires_grad)


def outputs_and_tangents(
    operator: Any,
    flat: Sequence[Any],
    tangents: Sequence[Any],
    made: dict[str, torch.Tensor] | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(the outputs that a flat call wants, the tangents of those that move), by the output's name.

    tangents    of the operator's inputs, None where there is none
    made        the outputs, where they are there already: else they are wanted too
    Raises UnsupportedError where there is no such kernel."""
    signature = operator.signature
    names = [slot.name for slot in signature.inputs]
    given = {n: x for n, x in zip(names, tangents, strict=True) if x is not None}
    kernel = _kernel_of(operator, given, flat)
    links, form = kernel.kernels.links, kernel.signature
    asked = names_of(signature, flat[-1])
    if made is None and not asked <= {slot.name for slot in form.outputs}:
        raise UnsupportedError("outputs beside their tangents", "kernel")
    tensors, numbers, extras = unflatten(signature, flat)
    known = {slot.name for slot in form.inputs}
    values = {name: x for name, x in tensors.items() if name in known}
    values.update((name, made[name]) for name in links.reads if made is not None)
    for name, dot in links.cotangents:
        if tensors.get(name) is not None:
            values[dot] = given[name] if name in given else _zeros_like(tensors[name])
    moving = {name: dot for name, dot in links.gradients if name in asked}
    wanted = {*moving.values(), *(asked if made is None else ())}
    request = flatten(form, values, numbers, extras, mask_of(form, wanted))
    results = _below(kernel, request) if made is None else kernel.invoke(request)
    found = {slot.name: x for slot, x in zip(form.outputs, results, strict=True)}
    outputs = {name: found[name] for name in asked} if made is None else made
    return outputs, {name: found[dot] for name, dot in moving.items()}


def _below(kernel: Any, flat: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    """The kernel's results on primal tensors, which one level of forward mode has no more to do
    with: without a Function, which costs more there than a small kernel does."""
    stack = torch._C._functorch.get_interpreter_stack()
    if stack is None:
        with torch._C._AutoDispatchBelowAutograd():
            return kernel.handle(*flat)
    if len(stack) > 1:
        return kernel.invoke(flat)  # type: ignore[no-any-return]
    level = stack[0].level()
    unwrap, wrap = torch._C._functorch._unwrap_for_grad, torch._C._functorch._wrap_for_grad
    plain = [unwrap(x, level) if isinstance(x, torch.Tensor) else x for x in flat]
    with temporarily_pop_interpreter_stack(), torch._C._AutoDispatchBelowAutograd():
        results = kernel.handle(*plain)
    return tuple(wrap(x, level) for x in results)


def variant_of(operator: Any, flat: Sequence[Any]) -> str:
    """What the derivative of an operator's call is that of: of a backward with cotangents of emits
    another than of one without."""
    inputs = zip(operator.signature.inputs, flat, strict=False)
    if operator.name == "backward" and any(s.absent and x is not None for s, x in inputs):
        return "backward_emits"
    return operator.name  # type: ignore[no-any-return]


def _kernel_of(operator: Any, given: dict[str, Any], flat: Sequence[Any]) -> Any:
    """The operator of outputs and tangents along the inputs that are given, or along all."""
    name = variant_of(operator, flat)
    whole = TANGENTS.get(name, f"jvp_of_{name}")
    real = [slot.dtype not in ("int", "bool") for slot in operator.signature.inputs]
    moves = [slot.name in given for slot in operator.signature.inputs]
    if operator.name == "" and moves != real:
        mask = sum(1 << place for place, move in enumerate(moves) if move)
        try:
            return operator.family.operator(f"{whole}_{mask}")
        except UnsupportedError:
            pass
    return operator.family.operator(whole)


def _zeros_like(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros((), dtype=x.dtype, device=x.device).expand(x.shape)
