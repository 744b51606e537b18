"""The composed form of a pipeline: the dense formula's text with the blocks that kernels run as
calls of them. It takes one argument more, `stages`: the operators of the blocks by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attnc.backends.composed.bands import BandsPrinter
from attnc.backends.composed.printer import StagePrinter
from attnc.backends.composed.rows import reading_what_is_given
from attnc.backends.eager.head import quoted

from attnc.expressions.tree import Array, Expr
from attnc.signature import Signature
from attnc.spec import Definition, Spec
from attnc.stages import KernelStage, Pipeline

SHIFTED = {"offset": "rows", "key_offset": "keys"}


@dataclass(frozen=True)
class Equation:
    """An equation between kernels, and what it became."""

    definition: Definition
    became: tuple[str, ...]


Step = Equation | KernelStage


class ComposedPrinter(BandsPrinter):
    """Prints one pipeline."""

    function = "composed"
    passed_on = ("stages",)
    printer_class = StagePrinter
    printer: StagePrinter

    def __init__(self, spec: Spec, pipeline: Pipeline) -> None:
        super().__init__(reading_what_is_given(spec, pipeline))
        self.pipeline = pipeline
        self.steps: list[Step] = []
        kept = {state.array.name for state in spec.root.states}
        self.states = {name: state for name, state in self.states.items() if name in kept}
        whole = [one for one in pipeline.kernels if one.carry is None]
        self.makers = {name: one for one in whole for name, _ in one.provides}
        self.carried = {one.block: one for one in pipeline.kernels if one.carry is not None}
        self.found: dict[str, str] = {}

    def _needs_whole_batch(self) -> str:
        if any(stage.signature.random for stage in self.pipeline.kernels):
            return "offsets per batch beside random numbers, in a pipeline"  # numbered by entry
        return super()._needs_whole_batch()

    def _below(self, name: str) -> list[str]:
        stage = self.makers.get(name)
        if stage is None:
            return super()._below(name)
        return [array.name for _, array in stage.arguments]

    def _ensure(self, name: str) -> None:
        stage = self.makers.get(name)
        if stage is None:
            super()._ensure(name)
        elif name not in self.printed:
            self._call(stage)
            self._take(stage, name)

    def _call(self, stage: KernelStage) -> None:
        """The call of a stage, once: all that anybody reads of it, and what the call asks for."""
        if stage.block in self.found:
            return
        p = self.printer
        if stage.states:
            self._first_values(self.spec.root)
        given = (*stage.arguments, *((state.name, state) for state in stage.states))
        tensors = [f"{quoted(n)}: {p.arrays[array.name]}" for n, array in given]
        shifts = self._shifts(stage.signature)
        names = [f"{quoted(state.name)}, " for state in stage.states]
        emits = " ".join(filter(None, ("".join(names).rstrip(), self._emits(stage))))
        found = self.found[stage.block] = self.print_call(stage, tensors, shifts, emits)
        for state in stage.states:
            last = self.names.fresh(f"last_{state.name}")
            code = f"{found}[{quoted(state.name)}]"
            real = state.kind in ("real", "complex")
            p.line(f"{last} = Real({code})" if real else f"{last} = {code}")
            p.arrays[state.name] = last

    def print_call(
        self, stage: KernelStage, tensors: Iterable[str], shifts: Iterable[str], emits: str
    ) -> str:
        p = self.printer
        if not self.quiet:
            self.steps.append(stage)
        found = self.names.fresh(f"{stage.block}_stage")
        p.line(f"{found} = staged(")
        p.depth += 1
        p.line(f"stages[{quoted(stage.block)}],")
        p.line(f"{{{', '.join(tensors)}}},")
        p.line(f"{{{', '.join([*self._numbers(stage), *shifts])}}},")
        p.line(f"narrow, ({emits}),")
        p.depth -= 1
        p.line(")")
        return found

    def _numbers(self, stage: KernelStage) -> Iterable[str]:
        lengths = {name: self.printer.lengths[axis.name] for name, axis in stage.lengths}
        for number in stage.signature.numbers:
            value = lengths.get(number.name) or self.arguments[number.name]
            yield f"{quoted(number.name)}: {value}"

    def _shifts(self, signature: Signature, row: str = "") -> Iterable[str]:
        """The first positions of a stage; `row`: that of its rows, where it is the loop's."""
        for shift, which in SHIFTED.items():
            axis = getattr(signature, which)
            if axis is not None and axis.shifted:
                own = row if row and shift == "offset" else axis.shifted
                yield f"{quoted(shift)}: {own}"
        if signature.random:
            yield '"seed": seed'

    def _emit(self, definition: Definition) -> None:
        found = dict(self.found)  # a stage that a branch calls has given nothing to another
        super()._emit(definition)
        self.found = found

    def _emits(self, stage: KernelStage) -> str:
        """The names of the outputs asked for, each as code; the operator's own where the call asks
        for them."""
        root = self.spec.root
        asked = {one.array.name for one in (*root.emits, *root.offered)}
        read = {n for d in self.equations.first for n in self._below_of(d)}
        names = []
        for name, output in stage.provides[1:]:
            if name in asked and name not in read:
                names.append(f"*([{quoted(output)}] if {quoted(name)} in emit else [])")
            else:
                names.append(quoted(output))
        return "".join(f"{name}, " for name in names).rstrip()

    def _below_of(self, name: str) -> list[str]:
        return [] if name in self.makers else self._below(name)

    def _take(self, stage: KernelStage, name: str) -> None:
        p = self.printer
        output = dict(stage.provides)[name]
        array = self._array(stage, name)
        code = f"{self.found[stage.block]}[{quoted(output)}]"
        code = f"Real({code})" if array.kind in ("real", "complex") else code
        variable = self.names.fresh(name)
        p.line(f"{variable} = {code}")
        p.arrays[name] = variable
        self.printed.add(name)

    def _define(self, definition: Definition, expr: Expr) -> str:
        self.printer.said = []
        name = super()._define(definition, expr)
        if not self.quiet:
            self.steps.append(Equation(definition, tuple(self.printer.said)))
        return name

    def _array(self, stage: KernelStage, name: str) -> Array:
        return self.equations.first[name].array


def emit_composed(spec: Spec, pipeline: Pipeline) -> str:
    """The text of the function `composed`."""
    return ComposedPrinter(spec, pipeline).text()


def steps_of(spec: Spec, pipeline: Pipeline) -> list[Step]:
    """The stages and equations in the order in which they run."""
    printer = ComposedPrinter(spec, pipeline)
    printer.text()
    return printer.steps


def composed_names(spec: Spec, pipeline: Pipeline) -> dict[str, str]:
    """What it calls the tensors, numbers and states of the operator."""
    return ComposedPrinter(spec, pipeline).arguments
