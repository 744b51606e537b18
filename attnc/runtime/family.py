"""The kernel sets of a module: the operator itself, its partial results, its derivatives.

Each set is an operator of its own, with its signature, kernels and torch operator. It is made when
it is first asked for, so that what a program does not use costs nothing, and its C++ is compiled at
its first call.

    ""                        the operator
    partial, merge, finish    partial results over shards of the keys; with `_backward` behind the
                              name: the backward of each; with `_second`: that of the backward; with
                              `_tangent`: forward mode (the last two not in written modules)
    training, backward        the operator with what its backward reads, and that backward; with
                              `_emits` behind the name: of the result and every emit, where a
                              set of its own serves these
    second                    the backward of the backward
    tangent                   the outputs and their tangents (forward mode)
    continued                 a recurrence that goes on: every state is given to it, and the rows
                              before that it reads; with `_training_emits` and `_backward_emits`
                              behind the name: its gradients
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from attnc.runtime.failures import UnsupportedError
from attnc.runtime.slots import Signature

SHARDS = ("partial", "merge", "finish")
OF_EMITS = ("training_emits", "backward_emits", "second_emits")


@dataclass(frozen=True)
class KernelSet:
    """One operator as it is printed: its signature, the digest of its text, its kernels by device.

    links      what a derivative belongs to (see Links)
    refusals   device -> why no kernel runs there
    emits      of a derivative: whether it serves calls that ask for emits, and those that do not
    formula    of a derivative of a backward: what torch differentiates there instead"""

    signature: Signature
    digest: str
    cpu: str = ""
    cuda: Mapping[str, Any] | None = None
    links: Links | None = None
    refusals: Mapping[str, str] = field(default_factory=dict)
    emits: bool = False
    formula: Formula | None = None


@dataclass(frozen=True)
class Formula:
    """A dense formula, and what it calls its arguments, where that is another name."""

    function: Callable[..., Mapping[str, Any]]
    names: Mapping[str, str]


@dataclass(frozen=True)
class Refusal:
    """A set that could not be derived: the words of an UnsupportedError. `formula`: see
    KernelSet."""

    feature: str
    backend: str
    instead: tuple[str, ...] = ()
    formula: Formula | None = None

    def error(self) -> UnsupportedError:
        return UnsupportedError(self.feature, self.backend, self.instead)


@dataclass(frozen=True)
class Links:
    """How a derivative hangs on its operator, all by name.

    reads       outputs of the operator that the derivative takes under their own names
    saved       further outputs of the training form that it takes
    cotangents  (output, input of the derivative that holds its cotangent or tangent)
    gradients   (input, output of the derivative that is its gradient); of a tangent:
                (output, output of the derivative that is its tangent)"""

    reads: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    cotangents: tuple[tuple[str, str], ...] = ()
    gradients: tuple[tuple[str, str], ...] = ()


class Family:
    """The operators of one module, by the names of their sets.

    sets    what is printed; a set that is not there is asked of `load`, which puts it there
    build   (set) -> backends by device
    make    (set, backends, family, name) -> the operator
    """

    def __init__(
        self,
        sets: dict[str, KernelSet | Refusal],
        build: Callable[[KernelSet], dict[str, Any]],
        make: Callable[..., Any],
        load: Callable[[str], None] | None = None,
    ) -> None:
        self.sets = sets
        self.build = build
        self.make = make
        self.load = load
        self._made: dict[str, Any] = {}
        self._lock = threading.RLock()

    def kernel_set(self, name: str) -> KernelSet:
        """The set of a name. Raises UnsupportedError where it cannot be derived."""
        found = self._found(self.serving(name))
        if isinstance(found, Refusal):
            raise found.error()
        return found

    def formula(self, name: str, device: str) -> Formula | None:
        """What torch differentiates in place of a set without kernels for a device, if anything."""
        found = self._found(self.serving(name))
        if isinstance(found, Refusal):
            return found.formula
        runs = found.formula is None or device in self.operator(name).backends
        return None if runs else found.formula

    def _found(self, name: str) -> KernelSet | Refusal:
        with self._lock:
            if name not in self.sets and self.load is not None:
                self.load(name)
        instead = () if name.startswith(SHARDS) else ("eager",)
        return self.sets.get(name, Refusal(name.replace("_", " "), "kernel", instead))

    def serving(self, name: str) -> str:
        """The set that serves as this one: that of calls with emits may be that of all calls."""
        whole = name.removesuffix("_emits")
        if name not in OF_EMITS or not getattr(self._found(whole), "emits", False):
            return name
        return whole

    def known(self, name: str) -> Any:
        """The operator of a name, if it was made before; else None."""
        return self._made.get(name)

    def operator(self, name: str = "") -> Any:
        """The operator of a name, made once. Raises UnsupportedError where it cannot be derived."""
        name = self.serving(name)
        made = self._made.get(name)
        if made is None:
            with self._lock:
                made = self._made.get(name)
                if made is None:
                    found = self.kernel_set(name)
                    made = self.make(found, self.build(found), self, name)
                    self._made[name] = made
        return made
