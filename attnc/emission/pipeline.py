"""The texts of a module that are a pipeline's: the kernel sets of its stages, the composed form
and the operator made of both."""

from __future__ import annotations

from attnc.emission.kernel_set import SetText, emit_kernels, print_set
from attnc.emission.separate import keeps_batch_apart
from attnc.stages import KernelStage, Pipeline, Stages


def sets_line(pipeline: Pipeline | None) -> str:
    """Where the kernel sets of a module stand: by name, and in a pipeline by stage."""
    if pipeline is None:
        return "SETS: dict[str, KernelSet | Refusal] = {}"
    stages = ", ".join(f"{stage.block!r}: {{}}" for stage in pipeline.kernels)
    return f"SETS: dict[str, dict[str, KernelSet | Refusal]] = {{{stages}}}"


def first_set(stages: Stages, stage: str = "") -> SetText:
    """An operator's own kernels, for every backend that can run them."""
    schedule = stages.schedule
    assert schedule is not None
    texts, refusals = emit_kernels({"cpu": schedule, "triton": schedule})
    separate = keeps_batch_apart(stages.graph)
    title = "the operator" if not stage else "the stage"
    return print_set(
        stages.spec, schedule.signature, texts, title=title, separate=separate,
        refusals=refusals, stage=stage,
    )  # fmt: skip


def print_composed(stages: Stages) -> str:
    """The function that calls the stages, with equations in torch between them."""
    from attnc.backends.composed import emit_composed

    assert stages.pipeline is not None
    return emit_composed(stages.spec, stages.pipeline).strip("\n")


def composed_names(stages: Stages) -> dict[str, str]:
    """What the composed function calls the arguments that have another name there."""
    from attnc.backends.composed import composed_names

    assert stages.pipeline is not None
    names = composed_names(stages.spec, stages.pipeline)
    return {name: other for name, other in names.items() if name != other}


def stage_of(stages: Stages, name: str) -> KernelStage:
    assert stages.pipeline is not None
    return next(stage for stage in stages.pipeline.kernels if stage.block == name)
