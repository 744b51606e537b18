"""attnc show: any stage as text; the mask, its tiles and the graph as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from attnc.cli.common import COUNT, FILE, console, read_source, with_statics
from attnc.errors import ArgumentUnknown, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from attnc.schedule import Schedule
    from attnc.spec import Spec
    from attnc.stages import Stages

STAGES = ("syntax", "spec", "graph", "schedule", "source", "cpu", "triton", "eager", "explain")
# What a further member of the family has; its text, names and dense formula are the operator's.
MEMBER_STAGES = ("graph", "schedule", "cpu", "triton")
MEMBERS = (
    "partial", "merge", "finish", "training", "backward", "second",
    "training_emits", "backward_emits", "second_emits", "tangent",
)  # fmt: skip
PICTURES = (".png", ".svg", ".pdf")


@click.command("show")
@click.argument("path", type=FILE)
@click.option("--emit", "stage", type=click.Choice(STAGES), help="Print this stage.")
@click.option(
    "--of",
    "member",
    type=click.Choice(MEMBERS),
    help="Show this operator of the family instead: a derivative, a partial result "
    "(with --emit graph, schedule, cpu or triton; in a pipeline that of each stage).",
)
@click.option(
    "--mask", is_flag=True, help="Draw the mask and its tiles (terminal, or -o FILE.png)."
)
@click.option("--graph", "graph", is_flag=True, help="Draw the graph (-o FILE.svg or FILE.png).")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file.")
@click.option("--rows", type=COUNT, default=64, show_default=True, help="Rows of the drawn mask.")
@click.option("--keys", type=COUNT, default=None, help="Keys of the drawn mask (as many as rows).")
@click.option("--tile", type=COUNT, default=16, show_default=True, help="Rows and keys of a tile.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, help="Seed of the inputs a mask may read."
)
@with_statics
def command(
    path: Path,
    stage: str | None,
    member: str | None,
    mask: bool,
    graph: bool,
    output: Path | None,
    rows: int,
    keys: int | None,
    tile: int,
    seed: int,
    assignments: dict[str, int | float | bool],
) -> None:
    """Show what the compiler makes of the operator in PATH: by default what `explain` says."""
    from attnc.front import read_spec

    _check_options(stage, member, mask, graph)
    if (mask or graph) and output is not None and output.suffix.lower() not in PICTURES:
        raise click.BadParameter(f"a picture's name ends in {', '.join(PICTURES)}: {output}")
    source = read_source(path)
    if stage == "syntax":
        from attnc.parser import parse
        from attnc.syntax import print_tree

        _deliver(print_tree(parse(source)), output)
        return
    statics, params = _split(assignments, source.text)
    spec = read_spec(source, statics=statics)
    known = [number.name for number in spec.numbers]
    for name in params:
        if name not in known:
            raise ArgumentUnknown.among(spec.name, name, known)
    if mask:
        from attnc.pictures import draw_spec_mask

        draw_spec_mask(spec, params, rows, keys or rows, tile, seed, output, console())
        if output is not None:
            click.echo(f"wrote {output}")
        return
    if graph:
        from attnc.pictures import draw_graph

        written = draw_graph(spec, output or Path(f"{spec.name}.svg"))
        click.echo(f"wrote {written}")
        return
    if member is not None:
        _deliver(member_text(spec, stage or "schedule", member), output)
        return
    _deliver(stage_text(spec, stage or "explain"), output)


def _check_options(stage: str | None, member: str | None, mask: bool, graph: bool) -> None:
    """Raises click.UsageError for options that say nothing together."""
    if (mask or graph) and (stage or member or mask == graph):
        raise click.UsageError("--mask and --graph each draw alone: without --emit and --of")
    if member is not None and stage not in (None, *MEMBER_STAGES):
        among = ", ".join(MEMBER_STAGES)
        raise click.UsageError(
            f"--of {member} has no {stage} of its own; with --of: --emit {among}"
        )


def _split(
    assignments: dict[str, int | float | bool], text: str
) -> tuple[dict[str, int | float | bool], dict[str, int | float | bool]]:
    """Statics and params of `--set`: a static is declared as such in the text."""
    import re

    declared = " ".join(re.findall(r"^\s*static\s(.*)$", text, re.MULTILINE))
    statics = {n: v for n, v in assignments.items() if re.search(rf"\b{re.escape(n)}\b", declared)}
    return statics, {n: v for n, v in assignments.items() if n not in statics}


def stage_text(spec: Spec, stage: str) -> str:
    """The printed form of a stage after the syntax."""
    from attnc import compiler

    if stage == "spec":
        from attnc.spec_text import print_spec

        return print_spec(spec)
    if stage == "eager":
        from attnc.backends.eager import emit_eager

        return emit_eager(spec)
    stages = compiler.lower(spec)
    if stage == "graph":
        return _graph_text(stages)
    if stage == "explain":
        from attnc.explanation import explain

        return explain(spec, stages, "auto", compiler.lower_trained(spec, stages))
    if stages.refusal is not None:
        raise stages.refusal
    if stage == "source":
        return compiler.emit_module(spec, stages)
    return _of_each(stages, lambda one: _kernel_text(one.schedule, stage))


def _graph_text(stages: Stages) -> str:
    """The graph; of a pipeline those of its stages, with the equations between them."""
    from attnc.graph_text import graph_text

    if stages.pipeline is None:
        return graph_text(stages.graph)
    from attnc.backends.composed import Equation, steps_of
    from attnc.expressions.text import expression_text

    parts = []
    for step in steps_of(stages.spec, stages.pipeline):
        if isinstance(step, Equation):
            array = step.definition.array
            axes = ", ".join(str(index) for index in array.indices)
            parts.append(f"{array.name}[{axes}] = {expression_text(step.definition.expr)}\n")
            continue
        given = ", ".join(f"{name} = {array.name}" for name, array in step.arguments)
        parts.append(f"stage {step.block}({given})\n{graph_text(step.stages.graph)}")
    return "\n".join(parts)


def member_text(spec: Spec, stage: str, member: str) -> str:
    """The graph, schedule or kernels of a derivative or of a form of partial results; in a pipeline
    those of each stage."""
    from attnc import compiler, family
    from attnc.operator import check_parts

    stages = compiler.lower(spec)
    if stages.refusal is not None:
        raise stages.refusal
    if member in family.FORMS:
        check_parts(stages)
    else:
        stages = compiler.lower_trained(spec, stages)
    if stage == "graph":
        return _of_each(stages, lambda one: family.derivative_graph_text(one, member))

    def text(one: Stages) -> str:
        found = family.lower_member(one, member)
        shown = _kernel_text(found.schedules["triton" if stage == "triton" else "cpu"], stage)
        return f"{family.links_text(found)}{shown}" if stage == "schedule" else shown

    return _of_each(stages, text)


def _of_each(stages: Stages, text: Callable[[Stages], str]) -> str:
    """The text of an operator; of a pipeline that of each stage, or why a stage has none."""
    if stages.pipeline is None:
        return text(stages)
    parts = []
    for kernel in stages.pipeline.kernels:
        try:
            shown = text(kernel.stages)
        except UnsupportedError as refusal:
            shown = f"none: {refusal}\n"
        parts.append(f"stage {kernel.block}\n{shown}")
    return "\n".join(parts)


def _kernel_text(schedule: Schedule | None, stage: str) -> str:
    """A schedule as text, or as the source of its kernels."""
    from attnc.backends import cpu, triton
    from attnc.schedule.text import schedule_text

    assert schedule is not None
    printers = {"schedule": schedule_text, "cpu": cpu.emit, "triton": triton.emit}
    return printers[stage](schedule)


def _deliver(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text)
        return
    from attnc.cache import write_file

    write_file(output, text)
    click.echo(f"wrote {output}")
