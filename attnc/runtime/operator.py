"""The operator of a compiled module: what a call does from its arguments to its outputs.

A plain call goes straight to the kernel, and so does one that wants a gradient, through a Function
of its own (see autograd). What is traced, transformed or watched goes through the low-level torch
operator of its kernel set (see registration).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from attnc.runtime.arguments import check_dense, checked_emits, flatten, mask_of, torched
from attnc.runtime.autograd import Derivatives
from attnc.runtime.call import bind_arguments, check_call, no_tensor
from attnc.runtime.failures import DeviceError, DtypeError, UnsupportedError, ValueRangeError
from attnc.runtime.family import Family, KernelSet
from attnc.runtime.forms import autocast, form_of, is_dense, is_plain, is_watched, levels_live
from attnc.runtime.reads import check_reads, with_reads_checked
from attnc.runtime.registration import register
from attnc.runtime.slots import SHIFTS, Call, Signature
from attnc.runtime.stepping import call_step, call_with_states, going_on

# A backend runs a bound call: (call, wanted output names) -> outputs in the order of the signature,
# None if not wanted.
Backend = Callable[[Call, frozenset[str]], tuple["torch.Tensor | None", ...]]
FORMS_KEPT = 512  # prepared calls of an operator; one is a few hundred bytes


class KernelOperator:
    """A compiled operator: call it with tensors (torch in, torch out) or arrays (NumPy in, NumPy
    out).

    kernels     the kernel set
    backends    device type ("cpu", "cuda") -> Backend
    family      the operators of its module, by name; `name` is this one's
    """

    def __init__(
        self, kernels: KernelSet, backends: dict[str, Backend], family: Family, name: str = ""
    ) -> None:
        self.kernels = kernels
        self.signature = kernels.signature
        self.backends = backends
        self.family = family
        self.name = name
        self.__name__ = self.signature.name
        outputs, results = self.signature.outputs, self.signature.results
        self._emits = frozenset(output.name for output in outputs[results:])
        self._results = tuple(output.name for output in outputs[:results])
        self._only_results = frozenset(self._results)
        self._stateful = bool(self.signature.states)
        self.derivatives = Derivatives(self)
        # Under Triton's interpreter one backend serves both devices: another operator than C++'s.
        shared = "interpreted" if len({*map(id, backends.values())}) < len(backends) else ""
        parts = (self.signature.name, name, *sorted(backends), shared, kernels.digest[:16])
        self.handle = register(self, "_".join(filter(None, parts)))
        self._prepared: dict[Any, Any] = {}

    @property
    def refusals(self) -> Mapping[str, str]:
        """Why the operator's kernels do not run on a device."""
        return self.kernels.refusals

    def __repr__(self) -> str:
        return f"<attnc operator {self.signature.name}({', '.join(self.signature.keywords)})>"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        if self._stateful and ("state" in kwargs or "return_state" in kwargs):
            run = self._from_state(kwargs.get("state"))
            return call_with_states(run, self.signature, args, kwargs)
        emit: Any = kwargs.pop("emit", ())
        if type(emit) is not tuple or emit:
            emit = checked_emits(self.signature, emit)
        if torch.compiler.is_compiling():
            return self._traced(args, kwargs, emit)
        args, kwargs = autocast(self.signature, args, kwargs)
        form = form_of(args, kwargs, emit)
        prepared = self._prepared.get(form) if form is not None else None
        if prepared is not None:
            places, run = prepared
            given = (*args, *kwargs.values())
            outputs = run([None if place is None else given[place] for place in places])
            if outputs is not None:
                return self._chosen(outputs, emit)
        return self._call(args, kwargs, emit, form)

    def step(self, state: Any, /, *args: Any, **kwargs: Any) -> Any:
        """One row of a recurrence: called as the operator, with tensors that lack the axis of time.
        Gives the result's row and the states after it; `state` None is the first ones."""
        run = self._from_state(state)
        return call_step(run, self.signature, state, args, kwargs)

    def _from_state(self, state: Any) -> Callable[..., Any]:
        """What takes this state (see going_on)."""

        def continued() -> tuple[Any, Signature]:
            found = self._further("continued")
            return found, found.signature

        return going_on(self, self.signature, state, continued)

    def partial(self, /, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        """What a shard of the keys contributes, before it is finished: called as the operator, with
        `key_offset` for the shard's first key. Merge the shards' results, then finish."""
        return self._further("partial")(*args, **kwargs)  # type: ignore[no-any-return]

    def merge(self, /, *parts: tuple[torch.Tensor, ...], **own: Any) -> tuple[torch.Tensor, ...]:
        """Partial results of disjoint shards as one. `own`: inputs of the operator that its merge
        reads, by name."""
        merge = self._further("merge")
        stacked = _stacked(merge.signature, parts)
        return merge(*stacked, **own)  # type: ignore[no-any-return]

    def finish(self, /, part: tuple[torch.Tensor, ...], **own: Any) -> Any:
        """The operator's result (and emits) from a partial result of all its keys. dtype: of the
        result, by default that of the statistics. `own`: inputs that the finish reads, by name."""
        return self._further("finish")(*part, **own)

    def _further(self, name: str) -> KernelOperator:
        """Another operator of the family; torch.compile takes it as it is, one that was made
        before even in a whole graph."""
        made = self.family.known(name)
        if made is not None:
            return made  # type: ignore[no-any-return]
        constant: Any = torch.compiler.assume_constant_result
        found: KernelOperator = constant(lambda: self.family.operator(name))()
        return found

    def invoke(self, flat: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
        """The torch operator on a flat argument list, seen by every transform."""
        if levels_live():
            return self.derivatives.apply(flat)
        return self.handle(*flat)  # type: ignore[no-any-return]

    def _call(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], emit: tuple[str, ...], form: Any
    ) -> Any:
        """A call of a form that is new here, or that is not plain."""
        tensors, numbers, extras = bind_arguments(self.signature, args, kwargs)
        if any(isinstance(value, np.ndarray) for value in tensors.values()):
            return self._numpy(tensors, numbers, extras, emit)
        wanted = self._wanted(emit)
        if is_plain(tensors):
            call = check_call(self.signature, tensors, numbers, extras)
            check_reads(call)
            check_dense(call, emit)
            prepared = self._keep(form, call, wanted, args, kwargs) if form is not None else None
            outputs = prepared.first(call) if prepared is not None else None
            if outputs is None:
                outputs = self.run(call, wanted)
        else:
            self._check_places(tensors)
            if not is_watched():
                call = check_call(self.signature, tensors, numbers, extras)
                check_reads(call)
                check_dense(call, emit)
                if form is not None and self._kept_with_gradients(
                    form, call, (numbers, extras), wanted, args, kwargs
                ):
                    places, run = self._prepared[form]
                    given = (*args, *kwargs.values())
                    outputs = run([None if place is None else given[place] for place in places])
                    return self._chosen(outputs, emit)
            mask = mask_of(self.signature, wanted)
            outputs = self.invoke(flatten(self.signature, tensors, numbers, extras, mask))
        return self._chosen(outputs, emit)

    def _check_places(self, tensors: dict[str, Any]) -> None:
        """Refuses what the torch operator would refuse in words of its own."""
        for name, value in tensors.items():
            if not isinstance(value, torch.Tensor):
                raise no_tensor(self.signature, name, value)
            if not is_dense(value):
                raise DtypeError(self.signature.name, name, "a dense tensor", str(value.layout))
            if value.device.type not in self.backends:
                raise self._no_backend(name, value.device)

    def _no_backend(self, name: str, device: torch.device) -> Exception:
        refusals = self.kernels.refusals
        why = refusals.get(device.type)
        if why is None and not self.backends:  # a choice of backend that cannot run this set
            why = next(iter(refusals.values()), None)
        if why is not None:
            return UnsupportedError(why, device.type, ("eager",))
        expected = f"a tensor on {' or '.join(sorted(self.backends))}"
        return DeviceError(self.signature.name, name, expected, str(device))

    def _keep(
        self,
        form: Any,
        call: Call,
        wanted: frozenset[str],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Remembers a checked call, if its backend can repeat it with other pointers; gives it back
        as prepared."""
        prepare = getattr(self.backends.get(call.device.type), "prepare", None)
        run = prepare(call, wanted) if prepare else None
        shifts = [value for name in SHIFTS if torch.is_tensor(value := kwargs.get(name))]
        if run is not None and all(value.dtype is torch.int64 for value in shifts):
            self._remember(form, call, run, args, kwargs)
        return run

    def _kept_with_gradients(
        self,
        form: Any,
        call: Call,
        arguments: tuple[dict[str, Any], dict[str, Any]],
        wanted: frozenset[str],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> bool:
        """Remembers a checked call that wants gradients, if there are any."""
        emits = wanted != self._only_results
        plan = self.derivatives.plan(call, *arguments, wanted, emits)
        if plan is not None:
            self._remember(form, call, plan, args, kwargs)
        return plan is not None

    def _remember(
        self, form: Any, call: Call, run: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        while len(self._prepared) >= FORMS_KEPT:
            self._prepared.pop(next(iter(self._prepared)), None)
        names = [slot.name for slot in self.signature.inputs if slot.positional][: len(args)]
        order = {name: place for place, name in enumerate([*names, *kwargs])}
        places = [
            order[slot.name] if slot.name in order and slot.name in call.given else None
            for slot in self.signature.inputs
        ]
        if any(torch.is_tensor(kwargs.get(name)) for name in SHIFTS):
            places += [order[n] if torch.is_tensor(kwargs.get(n)) else None for n in SHIFTS]
        self._prepared[form] = (places, with_reads_checked(call, run))

    def run(self, call: Call, wanted: frozenset[str]) -> tuple[torch.Tensor | None, ...]:
        """Runs a checked call on the backend of its device."""
        backend = self.backends.get(call.device.type)
        if backend is None:
            raise self._no_backend(self.signature.inputs[0].name, call.device)
        return backend(call, wanted)

    def _wanted(self, emit: tuple[str, ...]) -> frozenset[str]:
        if not emit:
            return self._only_results
        for name in emit:
            if name not in self._emits:
                known = ", ".join(sorted(self._emits)) or "none"
                raise ValueRangeError(
                    self.signature.name, "emit", f"names among: {known}", repr(name)
                )
        return frozenset((*self._results, *emit))

    def _chosen(self, outputs: Any, emit: tuple[str, ...]) -> Any:
        """The results of a call: one tensor, or a tuple with the emits asked for."""
        if not emit:
            count = len(self._results)
            return outputs[0] if count == 1 else tuple(outputs[:count])
        places = {output.name: place for place, output in enumerate(self.signature.outputs)}
        return tuple(outputs[places[name]] for name in (*self._results, *emit))

    def _traced(self, args: tuple[Any, ...], kwargs: dict[str, Any], emit: tuple[str, ...]) -> Any:
        """Under torch.compile and export: the torch operator itself, which checks in its fake
        form."""
        args, kwargs = autocast(self.signature, args, kwargs)
        tensors, numbers, extras = bind_arguments(self.signature, args, kwargs)
        mask = mask_of(self.signature, self._wanted(emit))
        flat = flatten(self.signature, tensors, numbers, extras, mask)
        return self._chosen(self.handle(*flat), emit)

    def _numpy(
        self,
        tensors: dict[str, Any],
        numbers: dict[str, Any],
        extras: dict[str, Any],
        emit: tuple[str, ...],
    ) -> Any:
        given, extras = torched(self.signature, tensors), torched(self.signature, extras)
        call = check_call(self.signature, given, numbers, extras)
        check_reads(call)
        check_dense(call, emit)
        chosen = self._chosen(self.run(call, self._wanted(emit)), emit)
        return tuple(one.numpy() for one in chosen) if type(chosen) is tuple else chosen.numpy()


def _stacked(signature: Signature, parts: tuple[Any, ...]) -> list[Any]:
    """The partial results along a first axis, for each tensor that a merge takes."""
    slots = [slot for slot in signature.inputs if slot.positional]
    for number, part in enumerate(parts):
        if not isinstance(part, (tuple, list)) or len(part) != len(slots):
            expected = f"the {len(slots)} tensors of a partial result"
            raise ValueRangeError(signature.name, f"#{number + 1}", expected, type(part).__name__)
    if not parts:
        raise ValueRangeError(signature.name, "#1", "a partial result", "nothing")
    arrays = isinstance(parts[0][0], np.ndarray)
    stack: Callable[..., Any] = np.stack if arrays else torch.stack
    return [stack([part[place] for part in parts]) for place in range(len(slots))]
