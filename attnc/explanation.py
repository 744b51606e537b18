"""What `op.explain()` says: which path a call takes, what was derived from the text, its cost, and
what its derivatives read, compute again and run."""

from __future__ import annotations

from collections.abc import Iterable

from attnc.emission.kernel_set import emit_kernels
from attnc.errors import UnsupportedError
from attnc.expressions.text import expression_text
from attnc.expressions.tree import BOXES, postorder
from attnc.family import lower_member, member_or_refusal
from attnc.schedule import Kernel, RepeatKernels
from attnc.schedule.maps import MapKernel
from attnc.schedule.regions import Region
from attnc.schedule.scans import ReverseScanKernel, ScanKernel
from attnc.schedule.statements import Running
from attnc.schedule.streams import StreamKernel, WalkedLoop
from attnc.spec import Definition, Spec
from attnc.stages import Bands, Carry, Member, Pipeline, Stages

PATHS = {
    "auto": "C++ kernels for tensors on the CPU, Triton kernels for tensors on a GPU",
    "cpu": "C++ kernels, tensors on the CPU",
    "triton": "Triton kernels, tensors on a GPU",
    "eager": "dense torch, memory grows with rows times keys",
    "numpy": "the float64 oracle, dense and slow",
}
# The kernel sets that autograd and torch.func ask for first.
DERIVATIVES = {"backward": "backward", "tangent": "jvp"}
DEVICES = {"cpu": "on the CPU", "triton": "on a GPU"}


def explain(spec: Spec, stages: Stages, backend: str, trained: Stages | None = None) -> str:
    """The explanation as text, one fact a line. `trained`: the stages of calls with gradients."""
    lines = [f"{spec.name}: {PATHS[backend]}", *_explained(spec, stages, backend)]
    if trained is not None and trained is not stages:
        lines += ["  calls with gradients run otherwise:", *_explained(spec, trained, backend)]
    return "\n".join(lines)


def _explained(spec: Spec, stages: Stages, backend: str) -> list[str]:
    if stages.pipeline is not None:
        return list(_pipeline(stages.spec, stages.pipeline, backend))
    if stages.schedule is None:
        return [f"  no kernel: {stages.refusal}"]
    lines = []
    for kernel in stages.schedule.kernels:
        lines += [f"  {line}" for line in _kernel(kernel)]
    for workspace in stages.schedule.workspaces:
        axes = ", ".join(axis.name for axis in workspace.array.axes)
        kind = "the dtype of the query" if workspace.dtype == "query" else "the accumulation type"
        lines.append(f"  workspace {workspace.array.name}[{axes}] in {kind}")
    lines += [f"  {note}" for note in (*stages.schedule.notes, *_surface(stages))]
    lines += [f"  the call tests: {one.message}" for one in stages.schedule.signature.requirements]
    if backend in ("auto", *DEVICES):
        devices = tuple(DEVICES) if backend == "auto" else (backend,)
        lines += [
            f"  {line}" for name in DERIVATIVES for line in _derivative(stages, name, devices)
        ]
        lines += [f"  {line}" for line in _second(stages, devices)]
    return lines


def _surface(stages: Stages) -> Iterable[str]:
    """What stands between the text and its kernels: parts of complex numbers, rows in the state."""
    assert stages.schedule is not None
    if stages.pairs is not None:
        given = (one.name for one in stages.pairs.spec.inputs)
        states = (one.array.name for one in stages.pairs.spec.root.states)
        names = stages.pairs.names
        shown = (
            f"{name} ({', '.join(names[name])})" for name in (*given, *states) if name in names
        )
        yield f"complex numbers are pairs of reals: {', '.join(shown)}"
    signature = stages.schedule.signature
    if signature.unbounded:
        yield f"no steps: {signature.unbounded} reads rows without a bound"
    elif signature.lags:
        held = (
            f"the last {expression_text(one.most)} rows of {one.name}" for one in signature.lags
        )
        yield f"a state holds, beside {', '.join(signature.states)}, {', '.join(held)}"


def _pipeline(spec: Spec, pipeline: Pipeline, backend: str) -> list[str]:
    """What runs in which order: kernels with what they are given, and what equations became."""
    from attnc.backends.composed import Equation, steps_of

    kernels = len(pipeline.kernels)
    lines = [f"  a pipeline: {kernels} operator{'s' * (kernels != 1)}, equations in torch between"]
    lines += [f"  {line}" for line in _bands(pipeline.bands)] if pipeline.bands else []
    for step in steps_of(spec, pipeline):
        if isinstance(step, Equation):
            lines.append(f"  {_equation(step.definition)}")
            lines += [f"    {one}" for one in step.became or ("point by point",)]
            continue
        made = ", ".join(name for name, _ in step.provides)
        given = ", ".join(array.name for _, array in step.arguments)
        lines.append(f"  stage {step.block}: makes {made} of {given}")
        lines += [f"    {line}" for line in _carry(step.carry)] if step.carry else []
        own = explain(step.stages.spec, step.stages, backend).splitlines()[1:]
        lines += [f"  {line}" for line in own]
    return lines


def _bands(bands: Bands) -> list[str]:
    """Which arrays make the rows run in bands, and what of the result needs them all."""
    from attnc.runtime.bands import BAND_BYTES, BAND_ROWS

    row = bands.row.name
    grown = {
        one.shown: ", ".join([row, *(axis.name for axis in one.beside)]) for one in bands.growing
    }
    shown = ", ".join(f"{name}[{axes}]" for name, axes in grown.items())
    lines = [
        f"in bands of {row}, of at most {BAND_BYTES >> 20} MiB or {BAND_ROWS} rows, because of "
        f"{shown}; gradients run each band again"
    ]
    if bands.apart:
        lines.append(f"in one band where {', '.join(sorted(bands.apart))} is asked for")
    return lines


def _carry(carry: Carry) -> list[str]:
    """How the rows of a stage hand on what they carry."""
    row, arrays = carry.row.name, []
    for state in carry.states:
        arrays.append(f"{state.name}[{', '.join(axis.name for axis in state.axes)}]")
    return [
        f"row by row: a call for each {row} in turn, updates in torch after it; "
        f"carries {', '.join(arrays)}",
        f"gradients: what is carried is kept once in about sqrt(len({row})) rows; "
        "the rows between run again",
    ]


def _equation(definition: Definition) -> str:
    """The left side of an equation and the start of its right side."""
    axes = ", ".join(index.name for index in definition.array.indices)
    return f"{definition.array.name}[{axes}] = {expression_text(definition.expr, 80)}"


def _derivative(stages: Stages, name: str, devices: tuple[str, ...]) -> list[str]:
    """What a derivative gives, what it reads, and its kernels; or why it is refused."""
    member = member_or_refusal(stages, name)
    if isinstance(member, UnsupportedError):
        return [f"{DERIVATIVES[name]}: refused: {member}"]
    try:
        _, refusals = emit_kernels(member.schedules)
    except UnsupportedError as refusal:
        return [f"{DERIVATIVES[name]}: refused: {refusal}"]
    lines = [f"{DERIVATIVES[name]}: {_given(member, name)}"]
    runs = {device: schedule for device, schedule in member.schedules.items() if device in devices}
    shared = set.intersection(*(set(schedule.notes) for schedule in runs.values()))
    first = next(iter(runs.values()))
    lines += [f"  {note}" for note in first.notes if note in shared]
    for device, schedule in runs.items():
        if device in refusals:
            lines.append(f"  {DEVICES[device]}: refused: {refusals[device]}")
            continue
        kernels = ", ".join(getattr(kernel, "name", "rounds") for kernel in schedule.kernels)
        lines.append(f"  {DEVICES[device]}: {kernels}")
        lines += [f"    {note}" for note in schedule.notes if note not in shared]
    return lines


def _second(stages: Stages, devices: tuple[str, ...]) -> list[str]:
    """Where torch makes gradients of gradients, and why."""
    refusals: dict[str, str] = {}
    member = member_or_refusal(stages, "backward")
    if not isinstance(member, UnsupportedError):
        try:
            member = lower_member(stages, "second")
            _, refusals = emit_kernels(member.schedules)
        except UnsupportedError as refusal:
            refusals = dict.fromkeys(devices, refusal.feature)
    whys = dict.fromkeys(refusals[device] for device in devices if device in refusals)
    by_torch = "by torch, of all pairs, so that memory grows with rows times keys"
    where = {why: [DEVICES[d] for d in devices if refusals.get(d) == why] for why in whys}
    return [
        f"second order{'' if len(names) == len(devices) else f' {names[0]}'}: {by_torch}, "
        f"because no kernel makes it ({why})"
        for why, names in where.items()
    ]


def _given(member: Member, name: str) -> str:
    """Of what a derivative gives gradients or tangents."""
    of, made = member.links.gradients, member.links.cotangents
    if name == "tangent":
        found = ", ".join(output for output, _ in of)
        return f"tangents of {found} from those of {', '.join(given for given, _ in made)}"
    return f"gradients of {', '.join(given for given, _ in of) or 'nothing'}"


def _kernel(kernel: Kernel) -> list[str]:
    if isinstance(kernel, MapKernel):
        names = ", ".join(store.array.name for store in kernel.stores)
        over = ", ".join(index.name for index in kernel.over)
        return [f"map kernel {kernel.name}: {names} for each ({over}), once, before the loop"]
    if isinstance(kernel, RepeatKernels):
        most = " at most" if any(getattr(one, "idle", None) for one in kernel.kernels) else ""
        head = f"repeated, {expression_text(kernel.count, 40)} times{most}:"
        return [head, *(f"  {line}" for inner in kernel.kernels for line in _kernel(inner))]
    if isinstance(kernel, ScanKernel):
        return [_scan(kernel)]
    if isinstance(kernel, ReverseScanKernel):
        return [_reverse_scan(kernel)]
    if not isinstance(kernel, StreamKernel):
        return [f"{type(kernel).__name__}"]
    outputs = ", ".join(store.array.name for store in kernel.stores)
    lines = [f"stream kernel {kernel.name}: holds tiles of {kernel.held.name}, stores {outputs}"]
    for carried in kernel.carried:
        over = f" over {carried.width.name}" if carried.width else ", one number a row"
        how = ", relative to the running reference" if carried.rescaled else ""
        lines.append(f"  carries {carried.name}: a {carried.monoid}{over}{how}")
    for loop in kernel.loops:
        lines += [f"  {line}" for line in _loop(loop)]
    return lines


def _scan(kernel: ScanKernel) -> str:
    loop = kernel.loop
    widths = [", ".join(index.name for index in state.indices) for state in loop.states]
    names = [f"{s.name}[{w}]" if w else s.name for s, w in zip(loop.states, widths, strict=True)]
    around = ", ".join(index.name for index in kernel.grid)
    outputs = ", ".join(store.array.name for store in kernel.stores)
    carried = f"carries {', '.join(names)}, stores {outputs}"
    return f"scan kernel {kernel.name}: walks {loop.time.name} for each ({around}), {carried}"


def _reverse_scan(kernel: ReverseScanKernel) -> str:
    carried = ", ".join(array.name for array in kernel.carried)
    around = ", ".join(index.name for index in kernel.grid)
    return (
        f"reversed scan kernel {kernel.name}: walks {kernel.replay.time.name} backwards for each "
        f"({around}) in blocks of {kernel.every} rows, carries {carried}"
    )


def _loop(loop: WalkedLoop) -> list[str]:
    products = ", ".join(
        f"{p.name} = sum over {p.width.name} of {expression_text(p.left, 60)} * "
        f"{expression_text(p.right, 60)}"
        for p in loop.products
    )
    lines = [f"walks {loop.walked.name}: matrix products {products or 'none'}"]
    if loop.exponent is not None:
        exponent = expression_text(loop.exponent, 120)
        lines.append(f"  reference: the running maximum of {exponent} (base 2)")
    else:
        lines.append("  no reference: no exponential of a pair needs one")
    inner = [let for let in loop.pair_values if let.expr.op == "fold"]
    lines += [f"  {let.name} is no matrix product: an inner loop for each pair" for let in inner]
    lines += [f"  {_running(one, loop)}" for one in loop.running]
    lines.append(f"  tiles: {_region(loop.region, loop.visible is not None)}")
    return lines


def _running(one: Running, loop: WalkedLoop) -> str:
    """Which keys a running value is over, and what that asks of the walk."""
    side = "after" if loop.backward != one.ahead else "before"
    own = " and at" if one.inclusive else ""
    text = (
        f"{one.name} runs along {loop.walked.name}: a {one.monoid} over the keys {side}{own} each"
    )
    if one.ahead:
        return f"{text}, which a walk before finds the whole of"
    way = "last key to the first" if loop.backward else "first key to the last"
    return f"{text}, so tiles are walked in order, from the {way}"


def _region(region: Region, masked: bool) -> str:
    if not masked:
        return "all, without a mask"
    if region.segments:
        count = len(region.segments)
        spans = f"{count} span" + "s" * (count > 1)
        return f"{spans} in closed form on the GPU, bisection on the CPU"
    if region.summaries:
        tables = ", ".join(expression_text(summary.expr, 60) for summary in region.summaries)
        return f"judged at run time by bounds of {tables} over tiles"
    boxed = [n for n in postorder(region.possible, region.certain) if n.op in BOXES]
    if boxed:
        tables = ", ".join(dict.fromkeys(f"`{node.array.name}`" for node in boxed))
        apart = "rows by themselves on the CPU where tiles of them would walk twice as much"
        return f"those for which {tables} has a true entry, looked up at run time; {apart}"
    return "judged at run time by interval arithmetic on the mask's formula"
