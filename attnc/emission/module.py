"""Puts a module together: support, signature, dense formula, kernel sets, the operator and its
function.

The first kernel set is the operator itself. A module that is written to a file holds every further
set (partial results, derivatives); one that attnc imports holds the first, and each further one is
printed when it is first asked for (`print_chapter`), the same text but for functions that a set
before it has (see sharing).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import attnc
from attnc.build import build
from attnc.emission.bundle import BANNER, bundle_runtime
from attnc.emission.kernel_set import (
    SetText,
    cpu_headers,
    defined_names,
    print_member,
    print_refusal,
    print_set,
    triton_prelude,
)
from attnc.emission.names import check_names
from attnc.emission.pipeline import composed_names, first_set, print_composed, sets_line, stage_of
from attnc.emission.python_numbers import print_python
from attnc.emission.separate import keeps_batch_apart, rows_apart, solves
from attnc.emission.sharing import share_functions
from attnc.errors import InternalError, UnsupportedError
from attnc.resources import template_environment
from attnc.signature import Signature
from attnc.signature_of import signature_of

if TYPE_CHECKING:
    from attnc.stages import Member, Pairs, Stages

REFERENCE_SUPPORT = (
    "failures", "slots", "reads", "call", "arguments", "stepping", "forms", "eager_operator",
    "eager_rows", "eager_slopes", "eager_numbers", "eager_support", "eager_calls",
)  # fmt: skip
SUPPORT = (
    *REFERENCE_SUPPORT,
    "family",
    "dense_slopes",
    "batching",
    "training",
    "forward_mode",
    "autograd",
    "registration",
    "operator",
    "cpu_build",
    "cpu_calls",
    "triton_plan",
    "triton_sources",
    "triton_lists",
    "triton_run",
    "triton_interpreter",
    "triton_launch",
    "triton_tune",
    "assembly",
    "unsolved",
    "selfcheck",
)
PIPELINE_SUPPORT = (*SUPPORT, "eager_forms", "eager_windows", "carried", "bands", "pipeline")
DENSE_FORMULA = "# The dense formula in torch"  # what follows the support part
SCRIPT_LINES = (
    'if __name__ == "__main__":',
    "    raise SystemExit(check_module(operator, reference))",
)
SCRIPT_OF_PARTS = (
    'if __name__ == "__main__":',
    "    raise SystemExit(check_module(operator.parts, reference.parts))",
)


@dataclass(frozen=True, slots=True)
class ModuleText:
    """The holes of templates/module/module.py.jinja; every one is finished text."""

    name: str
    version: str
    spec_text: str
    call_example: str
    support: str
    banner: str
    signature: str
    eager: str
    cpu_headers: Mapping[str, str]
    triton_prelude: str
    sets: str
    chapters: tuple[str, ...]
    composed: str
    assembly: str


Members = Mapping[str, "Member | UnsupportedError"]


def print_module(stages: Stages, members: Mapping[str, Members] | None = None) -> str:
    """The text of the module of an operator; without kernels, of its dense formula alone.

    members    by stage (`""` is the operator itself) the further kernel sets, or why there is none
    Raises AttncError for names that Python cannot carry."""
    from attnc.backends.eager import argument_names, emit_eager

    spec, schedule, pipeline = stages.spec, stages.schedule, stages.pipeline
    kernels = schedule is not None or pipeline is not None
    signature = schedule.signature if schedule else signature_of(spec, stages.graph)
    own = PIPELINE_SUPPORT if pipeline else SUPPORT if kernels else REFERENCE_SUPPORT
    public = signature if stages.pairs is None else _public(stages.pairs, signature)
    own = own if stages.pairs is None else (*own, "paired")
    support = bundle_runtime(own)
    check_names(public, own)
    chapters = [_render_chapter(first_set(stages))] if schedule else []
    for one in pipeline.kernels if pipeline else ():
        chapters.append(_render_chapter(first_set(one.stages, one.block)))
    for stage, found in (members or {}).items():
        chapters += [print_chapter(stages, name, one, stage) for name, one in found.items()]
    _check_apart(chapters)
    chapters = share_functions(chapters)
    text = ModuleText(
        name=spec.name,
        version=attnc.__version__,
        spec_text=_quoted(spec.source.text),
        call_example=_call_example(public),
        support=support,
        banner=BANNER,
        signature="" if schedule else _plain_set(stages, signature).signature,
        eager=emit_eager(spec).strip("\n"),
        cpu_headers=_shared(chapters if members is not None else None) if kernels else {},
        triton_prelude=triton_prelude() if kernels else "",
        sets=sets_line(pipeline),
        chapters=tuple(chapters),
        composed=print_composed(stages) if pipeline else "",
        assembly=_print_assembly(
            public,
            _renamed(argument_names(spec)),
            _made(stages),
            stages.pairs,
            rows_apart(spec) if kernels and solves(spec) else None,
        ),
    )
    return template_environment().get_template("module/module.py.jinja").render(m=text)


def _shared(chapters: Sequence[str] | None) -> Mapping[str, str]:
    """The headers that the chapters share, all where there may be others later (None)."""
    named = cpu_headers().items()
    return {n: x for n, x in named if chapters is None or any(n in one for one in chapters)}


def print_chapter(
    stages: Stages, name: str, member: Member | UnsupportedError, stage: str = ""
) -> str:
    """A further kernel set, of a stage where one is named, as a text that runs in the module's
    namespace."""
    own = stage_of(stages, stage).stages if stage else stages
    if isinstance(member, UnsupportedError):
        return print_refusal(own.spec, name, member, stage)
    try:
        spec = member.spec or own.spec
        return _render_chapter(print_member(spec, member, keeps_batch_apart(own.graph), stage))
    except UnsupportedError as refusal:
        return print_refusal(own.spec, name, refusal, stage)


def _plain_set(stages: Stages, signature: Signature) -> SetText:
    """The signature of an operator without kernels of its own."""
    return print_set(stages.spec, signature, {}, separate=keeps_batch_apart(stages.graph))


def _made(stages: Stages) -> tuple[str, ...]:
    """The lines that make the operator."""
    if stages.pipeline is not None:
        names = composed_names(stages)
        made = f"pipeline_of(SIGNATURE, composed, {names!r}, SETS, globals())"
    elif stages.schedule is not None:
        made = "family_of(SETS, globals()).operator()"
    else:
        return ("operator = reference",)
    return (f"operator = {made}", "BACKENDS = operator.backends")


def _render_chapter(text: SetText) -> str:
    template = template_environment().get_template("module/kernel_set.py.jinja")
    return template.render(s=text, banner=BANNER).strip("\n")


def _check_apart(chapters: list[str]) -> None:
    """No two kernel sets may define one name."""
    taken: set[str] = set()
    for chapter in chapters:
        names = defined_names(chapter)
        if names & taken:
            raise InternalError(f"two kernel sets define {', '.join(sorted(names & taken))}")
        taken |= names


def _call_example(signature: Signature) -> str:
    """What a call must give: tensors by place, then keywords."""
    places = [t.name for t in signature.inputs if t.positional]
    needed = [t.name for t in signature.inputs if not t.positional and not t.optional]
    needed += [n.name for n in signature.numbers if n.default is None]
    return ", ".join([*places, *(f"{name}={name}" for name in needed)])


def _quoted(text: str) -> str:
    """A spec inside a docstring: nothing in it can end the string or escape."""
    safe = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"').strip("\n")
    printable = "".join(c if c.isprintable() or c == "\n" else "?" for c in safe)
    return "\n".join(f"    {line}".rstrip() for line in printable.splitlines())


def _renamed(names: dict[str, str]) -> dict[str, str]:
    return {name: other for name, other in names.items() if name != other}


def _print_assembly(
    signature: Signature,
    eager_names: dict[str, str],
    made: tuple[str, ...],
    pairs: Pairs | None = None,
    solved: bool | None = None,
) -> str:
    """`solved`: where equations are solved, whether a row is computed without the others."""
    inputs = [t.name for t in signature.inputs if t.positional]
    optional = [f"{t.name}=None" for t in signature.inputs if not t.positional and t.optional]
    needed = [t.name for t in signature.inputs if not t.positional and not t.optional]
    numbers = [n.name if n.default is None else f"{n.name}=None" for n in signature.numbers]
    keywords = [*needed, *[n for n in numbers if "=" not in n], *optional]
    keywords += [n for n in numbers if "=" in n]
    extras = ["offset=0", "key_offset=0", "key_length=None"]
    extras += ["seed=0"] if signature.random else []
    extras += ["state=None", "return_state=False"] if signature.states else []
    head = ", ".join([*inputs, "*", *keywords, *extras, "emit=()"])
    names = [one.partition("=")[0] for one in [*keywords, *extras, "emit"]]
    passed = ", ".join([*inputs, *(f"{name}={name}" for name in names)])
    lines = [
        f"reference = EagerOperator(SIGNATURE, eager, {eager_names!r})",
        *made,
        *(_paired(pairs) if pairs else ()),
        "",
        "",
        f"def {signature.name}({head}):",
        *(f"    {line}".rstrip() for line in _docstring(signature)),
        *_returned(f"operator({passed})", [*inputs, *names[:-1]], solved),
    ]
    if signature.states:
        lines += ["", "", "step = operator.step"]
    if len(made) > 1:
        script = SCRIPT_OF_PARTS if pairs else SCRIPT_LINES
        lines += ["", "", *script]
    return "\n".join(lines)


def _returned(call: str, names: Iterable[str], solved: bool | None) -> Iterable[str]:
    """The last lines of the module's function."""
    if solved is None:
        return (f"    return {call}",)
    given = ", ".join(f"{name!r}: {name}" for name in names if name != "return_state")
    return (
        f"    result = {call}",
        f"    return check_roots(reference, result, {{{given}}}, {solved})",
    )


def _public(pairs: Pairs, signature: Signature) -> Signature:
    """The signature of the text, whose numbers are complex."""
    whole = {part: name for name, both in pairs.names.items() for part in both}
    outputs = dict.fromkeys(whole.get(one.name, one.name) for one in signature.outputs)
    names = [name for name in outputs if name != pairs.spec.root.result.array.name]
    return signature_of(pairs.spec, build(pairs.spec, names))


def _paired(pairs: Pairs) -> Iterable[str]:
    """The lines that put the operators behind complex numbers."""
    yield f"COMPLEX = {pairs.names!r}"
    for name in ("operator", "reference"):
        yield f"{name} = PairedOperator({name}, COMPLEX)"


def _docstring(signature: Signature) -> list[str]:
    lines = [f'"""{signature.outputs[0].name}: {_axes(signature.outputs[0].array.axes)}', ""]
    for tensor in signature.inputs:
        given = " (optional)" if tensor.optional else ""
        lines.append(f"{tensor.name}: {tensor.dtype} {_axes(tensor.array.axes)}{given}")
    for number in signature.numbers:
        default = "" if number.default is None else f" = {print_python(number.default)}"
        lines.append(f"{number.name}: {number.kind}{default}")
    emits = ", ".join(output.name for output in signature.outputs[1:])
    if signature.states:
        names = ", ".join((*signature.states, *(lag.name for lag in signature.lags)))
        lines.append(f"state: the first states, as a tuple ({names}) or by name")
        for lag in signature.lags:
            lines.append(f"    {lag.name}: its last rows, {print_python(lag.most)} or all so far")
        lines.append("return_state: whether to return the last states too")
    lines.append("offset, key_offset: the first position of rows and keys, int or int tensor [b]")
    lines.append("key_length: how many keys count, int or int tensor [b]; None: all")
    lines.append(f"emit: further results to return, among: {emits or 'none'}")
    lines.append('"""')
    return lines


def _axes(axes: tuple[object, ...]) -> str:
    return "[" + ", ".join(getattr(axis, "name", "") for axis in axes) + "]"


def split_support(text: str) -> tuple[str, str]:
    """The support part of a module's text, and the text without it; ("", text) if it has none."""
    start = "\nfrom __future__ import annotations\n\n"
    head, first, rest = text.partition(start)
    support, mark, own = rest.partition(f"\n\n{BANNER}\n{DENSE_FORMULA}")
    return (start.lstrip() + support, head + first + mark + own) if mark else ("", text)


def module_digest(text: str) -> str:
    """The digest of a module's text, which names its file."""
    return hashlib.sha256(text.encode()).hexdigest()[:20]
