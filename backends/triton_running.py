"""Prints values that run along the keys: folds over the pairs of a row before, or after, a pair."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.backends.triton_frame import INITIAL
from attnc.backends.triton_pairs import Pairs
from attnc.backends.triton_scope import Leaf

from attnc.expressions.tree import postorder
from attnc.schedule.statements import Let, Running


@dataclass
class RunningValues(Pairs):
    """Prints running values into `score`; what they begin with is set once a round, or once a walk
    (`restart`)."""

    rounds: list[str]
    restart: list[str]
    score: list[str]

    def parted(self) -> tuple[list[Let], list[Let | Running]]:
        """The values of pairs that use nothing that runs along the keys, and the others."""
        late = {one.name for one in self.loop.running}
        ready: list[Let] = []
        rest: list[Let | Running] = []
        for one in self.loop.pair_values:
            used = {str(n.attr) for n in postorder(one.expr) if n.op == "value"}
            if isinstance(one, Running) or used & late:
                late.add(one.name)
                rest.append(one)
            else:
                ready.append(one)
        return ready, rest

    def print(self, one: Running) -> None:
        """Prints a running value: along the tile, after what the tiles before have left, or ahead
        of what those after it come to. A sum over tiles is kept in two numbers."""
        names, unit = self.stream.scope.names, INITIAL[one.monoid]
        kept, low, name = (names.fresh(f"{one.name}{end}") for end in ("_kept", "_low", ""))
        first = [f"{each} = tl.full([BLOCK_HELD], {unit}, ACC)" for each in (kept, low)]
        (self.rounds if one.ahead else self.restart).extend(first)
        term = self.bound(self.full(one.expr, self.score, one.name), f"{one.name}_term", self.score)
        self.score.append(f"{term} = tl.where(seen, {term}, {unit})")
        options = f"{self.loop.backward}, {one.inclusive}, BLOCK_WALKED"
        part = f"tl.sum({term}, 1)"
        if one.ahead:
            self.score += [
                "if EDGE == 1:",
                f"    {kept}, {low} = gpu_sum_of_two({kept}, {part}, {low})",
                f"    {name} = {term}",
                "else:",
                f"    {kept}, {low} = gpu_sum_of_two({kept}, -{part}, {low})",
                f"    {name} = gpu_ahead({term}, {kept} + {low}, {options})",
            ]
        elif one.monoid == "sum":
            self.score += [
                f'{name}, _ = gpu_running({term}, {kept} + {low}, {unit}, "sum", {options})',
                f"{kept}, {low} = gpu_sum_of_two({kept}, {part}, {low})",
            ]
        else:
            call = f'gpu_running({term}, {kept}, {unit}, "{one.monoid}", {options})'
            self.score.append(f"{name}, {kept} = {call}")
        self.stream.scope = self.stream.scope.extended(values={one.name: Leaf(name, self.over)})
