"""The operator of a compiled module: what a call does from its arguments to its outputs.

A plain call (no gradient, no tracing) goes straight to the kernel. Everything else goes through one
low-level torch
operator per module, `attnc::NAME_DIGEST`, so that torch.compile, torch.export and autograd see an
ordinary operator. An
operator of torch.library.custom_op with registered autograd returns zero tangents silently, and an
autograd.Function with a jvp is refused by Dynamo; hence the Library operator whose Autograd key
holds a Function, which is
also entered directly whenever a dual or functorch level is live.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from attnc.runtime.call import (
    Call,
    Signature,
    bind_arguments,
    check_call,
    check_number,
    check_position,
    check_seed,
    shown,
)
from attnc.runtime.failures import DeviceError, DtypeError, UnsupportedError, ValueRangeError

# A backend runs a bound call: (call, wanted output names) -> outputs in the order of the signature,
# None if not wanted.
Backend = Callable[[Call, frozenset[str]], tuple["torch.Tensor | None", ...]]
# Parts of torch without type annotations.
forward_ad: Any = torch.autograd.forward_ad
jit: Any = torch.jit
library_of: Any = torch.library.Library
FORMS_KEPT = 512  # prepared calls of an operator; one is a few hundred bytes
SCHEMA_TYPES = {"int": "SymInt?", "real": "float?", "bool": "bool?"}


class KernelOperator:
    """A compiled operator: call it with tensors (torch in, torch out) or arrays (NumPy in, NumPy
    out).

    backends    device type ("cpu", "cuda") -> Backend
    digest      of the module's text: names the torch operator, so that two versions never meet
    """

    def __init__(self, signature: Signature, backends: dict[str, Backend], digest: str) -> None:
        self.signature = signature
        self.backends = backends
        self.digest = digest
        self.__name__ = signature.name
        self._emits = frozenset(output.name for output in signature.outputs[1:])
        self._result = signature.outputs[0].name
        self._only_result = frozenset((self._result,))
        self._op, self._apply = _register(self)
        self._prepared: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"<attnc operator {self.signature.name}({', '.join(self.signature.keywords)})>"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        emit: Any = kwargs.pop("emit", ())
        if type(emit) is not tuple or emit:
            emit = _emits(self.signature, emit)
        if torch.compiler.is_compiling():
            return self._traced(args, kwargs, emit)
        form = _form_of(args, kwargs, emit)
        prepared = self._prepared.get(form) if form is not None else None
        if prepared is not None:
            places, run = prepared
            given = (*args, *kwargs.values())
            outputs = run([None if place is None else given[place] for place in places])
            if outputs is not None:
                return self._chosen(outputs, emit)
        return self._call(args, kwargs, emit, form)

    def _call(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], emit: tuple[str, ...], form: Any
    ) -> Any:
        """A call of a form that is new here, or that is not plain."""
        tensors, numbers, extras = bind_arguments(self.signature, args, kwargs)
        if any(isinstance(value, np.ndarray) for value in tensors.values()):
            return self._numpy(tensors, numbers, extras, emit)
        wanted = self._wanted(emit)
        if _plain(tensors):
            call = check_call(self.signature, tensors, numbers, extras)
            outputs = self.run(call, wanted)
            if form is not None:
                self._keep(form, call, wanted, args, kwargs)
        else:
            self._check_places(tensors)
            flat = _flatten(self.signature, tensors, numbers, extras)
            outputs = self._apply(*flat) if _levels_live() else self._op(*flat)
        return self._chosen(outputs, emit)

    def _check_places(self, tensors: dict[str, Any]) -> None:
        """Refuses what the torch operator would refuse in words of its own."""
        for name, value in tensors.items():
            if not isinstance(value, torch.Tensor):
                raise DtypeError(self.signature.name, name, "a tensor", type(value).__name__)
            if not _dense(value):
                raise DtypeError(self.signature.name, name, "a dense tensor", str(value.layout))
            if value.device.type not in self.backends:
                expected = f"a tensor on {' or '.join(sorted(self.backends))}"
                raise DeviceError(self.signature.name, name, expected, str(value.device))

    def _keep(
        self,
        form: Any,
        call: Call,
        wanted: frozenset[str],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """Remembers a checked call, if its backend can repeat it with other pointers."""
        prepare = getattr(self.backends.get(call.device.type), "prepare", None)
        run = prepare(call, wanted) if prepare else None
        if run is None:
            return
        while len(self._prepared) >= FORMS_KEPT:
            self._prepared.pop(next(iter(self._prepared)), None)
        names = [slot.name for slot in self.signature.inputs if slot.positional][: len(args)]
        order = {name: place for place, name in enumerate([*names, *kwargs])}
        places = [
            order[slot.name] if slot.name in order and slot.name in call.given else None
            for slot in self.signature.inputs
        ]
        self._prepared[form] = (places, run)

    def run(self, call: Call, wanted: frozenset[str]) -> tuple[torch.Tensor | None, ...]:
        """Runs a checked call on the backend of its device."""
        backend = self.backends.get(call.device.type)
        if backend is None:
            known = " or ".join(sorted(self.backends))
            name = self.signature.inputs[0].name
            raise DeviceError(self.signature.name, name, f"a tensor on {known}", str(call.device))
        return backend(call, wanted)

    def _wanted(self, emit: tuple[str, ...]) -> frozenset[str]:
        if not emit:
            return self._only_result
        for name in emit:
            if name not in self._emits:
                known = ", ".join(sorted(self._emits)) or "none"
                raise ValueRangeError(
                    self.signature.name, "emit", f"names among: {known}", repr(name)
                )
        return frozenset((self._result, *emit))

    def _chosen(self, outputs: Any, emit: tuple[str, ...]) -> Any:
        if not emit:
            return outputs[0]
        places = {output.name: place for place, output in enumerate(self.signature.outputs)}
        return (outputs[0], *(outputs[places[name]] for name in emit))

    def _traced(self, args: tuple[Any, ...], kwargs: dict[str, Any], emit: tuple[str, ...]) -> Any:
        """Under torch.compile and export: the torch operator itself, which checks in its fake
        form."""
        tensors, numbers, extras = bind_arguments(self.signature, args, kwargs)
        self._wanted(emit)
        return self._chosen(self._op(*_flatten(self.signature, tensors, numbers, extras)), emit)

    def _numpy(
        self,
        tensors: dict[str, Any],
        numbers: dict[str, Any],
        extras: dict[str, Any],
        emit: tuple[str, ...],
    ) -> Any:
        torched, extras = _torched(self.signature, tensors), _torched(self.signature, extras)
        call = check_call(self.signature, torched, numbers, extras)
        chosen = self._chosen(self.run(call, self._wanted(emit)), emit)
        return tuple(one.numpy() for one in chosen) if emit else chosen.numpy()


class EagerOperator:
    """The dense formula behind the same signature: differentiable by torch, on any device.

    names   what the function calls its arguments, where that is another name"""

    def __init__(
        self, signature: Signature, function: Callable[..., Any], names: dict[str, str]
    ) -> None:
        self.signature = signature
        self.function = function
        self.names = names
        self.__name__ = signature.name

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        emit = _emits(self.signature, kwargs.pop("emit", ()))
        tensors, numbers, extras = bind_arguments(self.signature, args, kwargs)
        arrays = any(isinstance(value, np.ndarray) for value in tensors.values())
        torched, extras = _torched(self.signature, tensors), _torched(self.signature, extras)
        check_call(self.signature, torched, numbers, extras)
        given = {self.names.get(name, name): v for name, v in (torched | numbers).items()}
        results = self.function(**given, **extras, emit=emit)
        for name in emit:
            if name not in results:
                known = ", ".join(sorted(results.keys() - {"out"})) or "none"
                expected = f"names among: {known}"
                raise ValueRangeError(self.signature.name, "emit", expected, repr(name))
        out = tuple(results[name] for name in ("out", *emit))
        out = tuple(one.numpy() for one in out) if arrays else out
        return out if emit else out[0]


def _emits(signature: Signature, emit: Any) -> tuple[str, ...]:
    """The names asked for by `emit`."""
    names = emit if isinstance(emit, (tuple, list)) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise ValueRangeError(signature.name, "emit", 'a tuple, as in ("lse",)', shown(emit))
    return tuple(names)


def _torched(signature: Signature, values: dict[str, Any]) -> dict[str, Any]:
    """Arrays of NumPy as tensors on the same memory; a copy where torch has no such form (negative
    strides, read-only memory)."""
    torched = dict(values)
    for name, value in values.items():
        if not isinstance(value, np.ndarray):
            continue
        plain = value.flags.writeable and all(stride >= 0 for stride in value.strides)
        try:
            torched[name] = torch.from_numpy(value if plain else value.copy())
        except TypeError:
            expected = "an array of a dtype that torch has"
            raise DtypeError(signature.name, name, expected, str(value.dtype)) from None
    return torched


def _form_of(args: tuple[Any, ...], kwargs: dict[str, Any], emit: tuple[str, ...]) -> Any:
    """All of a plain call but its data, to know it again; None if it is not plain."""
    grad = torch.is_grad_enabled()
    parts: list[Any] = [len(args), emit, torch.get_num_threads(), os.environ.get("ATTNC_CPU_ISA")]
    parts.extend(kwargs)
    for value in (*args, *kwargs.values()):
        kind = type(value)
        if kind is torch.Tensor or kind is torch.nn.Parameter:
            if (grad and value.requires_grad) or value.is_neg() or not _dense(value):
                return None
            parts.append((value.shape, value.stride(), value.dtype, value.device))
        elif kind is float:
            parts.append((kind, value, math.copysign(1.0, value)))  # -0.0 equals 0.0
        elif value is None or kind in (int, bool):
            parts.append((kind, value))
        else:
            return None
    return None if _watched() else tuple(parts)


def _dense(value: torch.Tensor) -> bool:
    return value.layout is torch.strided and not value.is_nested


def _watched() -> bool:
    """Whether a mode, a transform or a tracer wants to see the call."""
    return bool(
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or _levels_live()
        or jit.is_tracing()
    )


def _plain(tensors: dict[str, torch.Tensor]) -> bool:
    """Ordinary tensors, no gradient wanted, nobody watching: the kernel may be called directly."""
    grad = torch.is_grad_enabled()
    for value in tensors.values():
        kind = type(value)
        if kind is not torch.Tensor and kind is not torch.nn.Parameter:
            return not isinstance(value, torch.Tensor)  # not a tensor: check_call says so
        if (grad and value.requires_grad) or (_dense(value) and value.is_neg()):
            return False
    return not _watched()


def _levels_live() -> bool:
    """Whether a forward-mode level or a functorch transform (grad, jvp, vmap) is live."""
    if forward_ad._current_level >= 0:
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None


def _flatten(
    signature: Signature, tensors: dict[str, Any], numbers: dict[str, Any], extras: dict[str, Any]
) -> tuple[Any, ...]:
    """The arguments in the order of the torch operator's schema, each of a type that it takes."""
    flat: list[Any] = [tensors.get(tensor.name) for tensor in signature.inputs]
    for number in signature.numbers:
        value = numbers.get(number.name)
        flat.append(None if value is None else check_number(signature, number, value))
    for name in ("offset", "key_offset", "key_length"):
        value = extras.get(name, None if name == "key_length" else 0)
        if value is None and name == "key_length":
            flat += [None, None]
        elif isinstance(value, torch.Tensor):
            flat += [value, None]
        else:
            flat += [None, check_position(signature, name, value)]
    flat.append(check_seed(signature, extras.get("seed", 0)))
    return tuple(flat)


def _unflatten(signature: Signature, flat: tuple[Any, ...]) -> Call:
    """The checked call of a flat argument list."""
    places = iter(flat)
    tensors = {tensor.name: next(places) for tensor in signature.inputs}
    numbers = {number.name: next(places) for number in signature.numbers}
    extras: dict[str, Any] = {}
    for name in ("offset", "key_offset", "key_length"):
        on_device, on_host = next(places), next(places)
        if on_device is not None or on_host is not None:
            extras[name] = on_host if on_device is None else on_device
    extras["seed"] = next(places)
    present = {name: value for name, value in tensors.items() if value is not None}
    given = {name: value for name, value in numbers.items() if value is not None}
    return check_call(signature, present, given, extras)


def _register(operator: KernelOperator) -> tuple[Any, Any]:
    """Defines `attnc::NAME_DIGEST` once a process and gives back the operator and its autograd
    Function."""
    signature = operator.signature
    qualified = f"{signature.name}_{operator.digest[:16]}"
    names = [f"Tensor? x{place}" for place in range(len(signature.inputs))]
    names += [f"{SCHEMA_TYPES[n.kind]} n{place}" for place, n in enumerate(signature.numbers)]
    for name in ("offset", "key_offset", "key_length"):
        names += [f"Tensor? {name}s", f"SymInt? {name}"]
    results = ", ".join("Tensor" for _ in signature.outputs)
    library = library_of("attnc", "FRAGMENT")
    everything = frozenset(output.name for output in signature.outputs)

    def compute(*flat: Any) -> tuple[torch.Tensor, ...]:
        return operator.run(_unflatten(signature, flat), everything)  # type: ignore[return-value]

    def fake(*flat: Any) -> tuple[torch.Tensor, ...]:
        call = _unflatten(signature, flat)
        return tuple(call.new_output(output) for output in signature.outputs)

    class Function(torch.autograd.Function):
        """The operator for autograd: what it cannot derive, it refuses."""

        @staticmethod
        def forward(*flat: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                return handle(*flat)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            raise _no_derivative("backward (reverse-mode derivative)")

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            raise _no_derivative("jvp (forward-mode derivative)")

        @staticmethod
        def vmap(info: Any, in_dims: Any, *flat: Any) -> Any:
            raise _no_derivative("vmap")

    apply: Any = Function.apply

    def autograd(*flat: Any) -> Any:
        inputs = [x for x in flat[: len(signature.inputs)] if x is not None]
        if any(forward_ad.unpack_dual(x).tangent is not None for x in inputs):
            raise _no_derivative("jvp (forward-mode derivative)")
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
            return apply(*flat)
        with torch._C._AutoDispatchBelowAutograd():
            return handle(*flat)

    if not hasattr(torch.ops.attnc, qualified):
        library.define(f"{qualified}({', '.join(names)}, int seed) -> ({results})")
        for device in ("CPU", "CUDA"):
            library.impl(qualified, compute, device)
        torch.library.register_fake(f"attnc::{qualified}", fake, lib=library)
        library.impl(qualified, autograd, "Autograd")
        operator._library = library  # type: ignore[attr-defined]  # lives as long as the operator
    handle = getattr(torch.ops.attnc, qualified).default
    return handle, apply


def _no_derivative(which: str) -> UnsupportedError:
    return UnsupportedError(f"{which} of an operator", "kernel", ("eager",))
