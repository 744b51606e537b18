"""Operators with a call each, for the derivative passes: the language's specs and the gallery; and
their derivatives by float64 autograd of the eager form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from textwrap import dedent
from typing import Any

import catalogue_calls
import gallery_cases
import numpy as np
import torch
from eager_loader import load, to_torch
from graph_values import values_of

from attnc.front import load_source, read_spec
from attnc.graph import Graph
from attnc.passes.differentiate import cotangents, inputs_of
from attnc.passes.pipeline import prepare
from attnc.passes.tangent import tangents
from attnc.spec import Spec

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Problem:
    """A spec and one call of it; `emits` beside the result."""

    spec: Spec
    tensors: Mapping[str, np.ndarray]
    numbers: Mapping[str, Any]
    keywords: Mapping[str, Any] = field(default_factory=dict)
    emits: tuple[str, ...] = ()

    @cached_property
    def graph(self) -> Graph:
        return prepare(self.spec, self.emits)

    @property
    def reals(self) -> list[str]:
        return [name for name, array in self.tensors.items() if array.dtype.kind == "f"]

    def outputs(self, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The real outputs by the eager form, by their names in the graph."""
        run = eager(self.spec)
        found = run(**given, **self.numbers, **self.keywords, emit=self.emits)
        names = [output.array.name for output in self.graph.outputs]
        named = dict(zip(names, ("out", *names[1:]), strict=True))
        return {n: found[key] for n, key in named.items() if found[key].is_floating_point()}

    def cotangents(self, seed: int = 5) -> Arrays:
        """Random cotangents of the outputs, by their names as inputs of the derivative."""
        rng = np.random.default_rng(seed)
        outputs = self.outputs(to_torch(self.tensors))
        named = cotangents(self.graph)
        return {named[n].name: rng.normal(size=y.shape) for n, y in outputs.items()}

    def gradients(self, given: Arrays) -> Arrays:
        """By autograd of the eager form, for cotangents by name."""
        leaves = to_torch(self.tensors, grad=True)
        outputs = self.outputs(leaves)
        named = cotangents(self.graph)
        loss = sum((y * torch.from_numpy(given[named[n].name])).sum() for n, y in outputs.items())
        real = self.reals
        found = torch.autograd.grad(loss, [leaves[n] for n in real], allow_unused=True)
        pairs = zip(real, found, strict=True)
        return {
            n: np.zeros(self.tensors[n].shape) if g is None else g.numpy(force=True)
            for n, g in pairs
        }

    def values(self, graph: Graph, more: Mapping[str, np.ndarray]) -> Arrays:
        """The outputs of a graph derived from this one, by the oracle."""
        read = {array.name for array in inputs_of(graph)}
        more = {name: array for name, array in more.items() if name in read}
        given = {**self.tensors, **more}
        return values_of(self.spec, graph, given, self.numbers, **self.keywords)

    def directions(self, seed: int = 6) -> Arrays:
        """Random tangents of the real inputs, by input."""
        rng = np.random.default_rng(seed)
        return {name: rng.normal(size=self.tensors[name].shape) for name in self.reals}

    def along(self, directions: Arrays) -> Arrays:
        """Tangents by their names as inputs of the tangent."""
        named = tangents(self.graph)
        return {named[n].name: d for n, d in directions.items() if n in named}


@cache
def eager(spec: Spec) -> Callable[..., dict[str, torch.Tensor]]:
    return load(spec)


def text(source: str, statics: Mapping[str, Any] | None = None) -> Spec:
    return read_spec(load_source(dedent(source)), statics=statics or {})


def language(name: str) -> Problem:
    call, spec = catalogue_calls.CALLS[name], catalogue_calls.read(name)
    given = catalogue_calls.tensors(spec, call, seed=3)
    return Problem(spec, given, call.numbers, call.keywords, emits_of(spec))


def gallery(path: Path, seed: int = 11) -> Iterator[Problem]:
    setting = gallery_cases.setting_of(path.stem)
    spec = gallery_cases.load(path)
    for case, _ in gallery_cases.calls(spec, setting, seed):
        yield Problem(spec, case.tensors, case.numbers, case.extras, emits_of(spec))


def worst(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    """The largest error of any gradient, relative to the largest entry of all; NaN counts."""
    size = max((np.abs(w).max(initial=0.0) for w in wanted.values()), default=0.0) or 1.0
    errors = [0.0]
    for name, w in wanted.items():
        got = found.get(f"{name}_grad", np.zeros(w.shape))
        assert got.shape == w.shape
        errors.append(float(np.abs(got - w).max(initial=0.0)) / size)
    return float("nan") if any(np.isnan(errors)) else max(errors)


def emits_of(spec: Spec) -> tuple[str, ...]:
    """The emits that are written, and lse where it is offered."""
    names = [one.array.name for one in spec.root.emits]
    names += [one.array.name for one in spec.root.offered if one.array.name == "lse"]
    return tuple(names)
