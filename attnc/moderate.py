"""Calls whose results stay moderate: what rows hand on may grow with every row.

A recurrence is stable for some inputs alone: poles within the unit circle, steps above 0. The text
does not say so, and a random call of 500 rows is an overflow, where errors are infinite on both
sides. Here signs are found for its inputs with which a short call stays moderate: of one input or
of two, those of others left as they are drawn; then all inputs are made smaller, if need be. The
oracle's result of a narrow call of as many rows decides, whatever the operator is. Without a state
nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

import numpy as np

from attnc.cases import Case, Shape, deciding, draw_case
from attnc.errors import AttncError
from attnc.spec import Block, Definition, Repeat, Spec

LARGEST = 2.0**14  # a result beyond it is not moderate: a quarter of float16's largest number
SHORT = Shape(rows=129, keys=129, width=3, value_width=3, batch=1, key_heads=1)
SEEDS = 2
NARROW = 24  # the widest vectors of a call that is tried
SHRUNK = (1 / 8, 1 / 64, 1 / 512)
Signs = Mapping[str, int]


@dataclass(frozen=True)
class Moderation:
    """The calls of one spec, kept moderate."""

    spec: Spec
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        stay = deciding(self.spec)
        reals = [one for one in self.spec.inputs if one.array.kind == "real"]
        reals.sort(key=lambda one: one.positional)
        names = tuple(one.name for one in reals if one.name not in stay)
        object.__setattr__(self, "names", names)

    def of(self, case: Case, seed: int) -> Case:
        """A call like that which `seed` drew, whose result is moderate; the call itself if none is
        found."""
        if not carries(self.spec.root):
            return case
        probe = self._drawn(narrowed(case.shape), seed)
        if probe is None or self.is_moderate(probe):
            return case
        for by in (1.0, *SHRUNK):
            if self.is_moderate(shrunk(signed(probe, self.signs), self.names, by)):
                return shrunk(signed(case, self.signs), self.names, by)
        return case

    def is_moderate(self, case: Case) -> bool:
        """Whether no number of the oracle's result is large, infinite or NaN."""
        from attnc.backends.numpy_oracle import evaluate

        with np.errstate(all="ignore"):
            out = evaluate(self.spec, case.tensors, case.numbers, **case.extras)["out"]
            return bool((np.abs(np.asarray(out)) <= LARGEST).all())

    @cached_property
    def signs(self) -> Signs:
        """The fewest inputs, and their signs, with which short calls stay moderate."""
        wild = [case for case in self._short() if not self.is_moderate(case)]
        for count in (1, 2) if wild else ():
            for names in combinations(self.names, count):
                for signs in _every(names):
                    if all(self.is_moderate(signed(case, signs)) for case in wild):
                        return signs
        return {}

    def _short(self) -> list[Case]:
        drawn = (self._drawn(SHORT, seed) for seed in range(SEEDS))
        return [case for case in drawn if case is not None]

    def _drawn(self, shape: Shape, seed: int) -> Case | None:
        try:
            return draw_case(self.spec, shape, seed)
        except AttncError:
            return None


def narrowed(shape: Shape) -> Shape:
    """As many rows and keys, of one batch entry and narrow vectors."""
    width, value_width = min(shape.width, NARROW), min(shape.value_width, NARROW)
    return replace(shape, batch=1, key_heads=1, group=1, width=width, value_width=value_width)


def _every(names: tuple[str, ...]) -> Iterable[Signs]:
    for bits in range(2 ** len(names)):
        yield {name: -1 if bits >> n & 1 else 1 for n, name in enumerate(names)}


def signed(case: Case, signs: Signs) -> Case:
    """The call with these inputs of one sign."""
    found = {name: sign for name, sign in signs.items() if name in case.tensors}
    tensors = {name: sign * np.abs(case.tensors[name]) for name, sign in found.items()}
    words = (f"{name} {'below' if sign < 0 else 'above'} 0" for name, sign in found.items())
    note = ", ".join(words)
    return replace(case, tensors={**case.tensors, **tensors}, note=note)


def shrunk(case: Case, names: Iterable[str], by: float) -> Case:
    """The call with these inputs made smaller."""
    if by == 1:
        return case
    tensors = {name: case.tensors[name] * by for name in names if name in case.tensors}
    return replace(
        case, tensors={**case.tensors, **tensors}, note=f"{case.note} inputs times {by}".strip()
    )


def carries(block: Block) -> bool:
    """Whether the block, or one in it, has a state."""
    stack: list[Block | Definition | Repeat] = [block]
    while stack:
        one = stack.pop()
        if isinstance(one, Block):
            if one.states:
                return True
            stack.extend(one.statements)
        elif isinstance(one, Repeat):
            stack.extend(one.statements)
    return False
