"""The references of an operator as callables: the float64 oracle, and the dense formula in
torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnc.errors import DeviceError
from attnc.spec import Spec


def eager_operator(spec: Spec) -> Any:
    """The dense formula in torch behind the operator's signature (runs every spec,
    differentiable)."""
    found = reference_module(spec).reference
    found.continued = lambda: eager_operator(continued_spec(spec))
    return found


def continued_spec(spec: Spec) -> Spec:
    """The Spec of a recurrence that goes on from rows before."""
    from attnc.compiler import lower_reference
    from attnc.continued import continued
    from attnc.lags import lags_of

    found = lags_of(lower_reference(spec).graph).reach
    order = (one.name for one in spec.inputs if one.name in found)
    return continued(spec, {name: found[name][1] for name in order})


def reference_module(spec: Spec) -> Any:
    """The module of an operator without kernels."""
    from attnc.compiler import load_module, lower_reference
    from attnc.emission.module import print_module

    return load_module(print_module(lower_reference(spec)), f"{spec.name}_reference")


def numpy_operator(spec: Spec) -> Any:
    """The oracle behind the operator's signature: torch in, torch out (the result in the query's
    dtype),
    NumPy in, NumPy out."""
    from attnc.runtime.stepping import call_step, call_with_states, going_on

    def run(*args: Any, **kwargs: Any) -> Any:
        import torch

        if "state" in kwargs or "return_state" in kwargs:
            return call_with_states(from_state(kwargs.get("state")), signature(), args, kwargs)

        given = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        results = run_reference(spec, args, dict(kwargs))
        if not given:
            return results
        dtype = next((one.dtype for one in given if one.is_floating_point()), given[0].dtype)
        device = given[0].device
        first, *rest = results if isinstance(results, tuple) else (results,)
        out = torch.from_numpy(np.ascontiguousarray(first)).to(device)
        out = out.to(dtype) if out.is_floating_point() else out
        others = [torch.from_numpy(np.ascontiguousarray(one)).to(device) for one in rest]
        return (out, *others) if others else out

    def step(state: Any, /, *args: Any, **kwargs: Any) -> Any:
        return call_step(from_state(state), signature(), state, args, kwargs)

    def signature() -> Any:
        return reference_module(spec).SIGNATURE

    def from_state(state: Any) -> Any:
        return going_on(run, signature(), state, further)

    def further() -> Any:
        own = continued_spec(spec)
        return numpy_operator(own), reference_module(own).SIGNATURE

    run.step = step  # type: ignore[attr-defined]
    return run


def run_reference(spec: Spec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The oracle's answer to a call of the operator: a NumPy array, or a tuple with the emits asked
    for."""
    from attnc.backends.numpy_oracle import evaluate

    module = reference_module(spec)
    emit = module.checked_emits(module.SIGNATURE, kwargs.pop("emit", ()))
    states = {
        s.array.name: kwargs.pop(s.array.name) for s in spec.root.states if s.array.name in kwargs
    }
    tensors, numbers, extras = module.bind_arguments(module.SIGNATURE, args, kwargs)
    torched = module.torched(module.SIGNATURE, tensors)
    module.check_call(module.SIGNATURE, torched, numbers, extras)
    for name, value in torched.items():
        if value.is_meta:
            raise DeviceError(spec.name, name, "a tensor with values", "one on meta")
    exact = {name: _exact(value) for name, value in torched.items()}
    shifts = {name: _exact(value) for name, value in extras.items()}
    results = evaluate(
        spec, exact, numbers, emit=emit, states={n: _exact(s) for n, s in states.items()}, **shifts
    )
    return tuple(results[name] for name in ("out", *emit)) if emit else results["out"]


def _exact(value: Any) -> Any:
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().cpu()
    return (value.double() if value.is_floating_point() else value).numpy()
