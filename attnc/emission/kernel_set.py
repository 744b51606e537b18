"""Prints one kernel set of a module: its signature, its C++ text, its Triton functions, and the
entry that makes an operator of them. The text is a chapter of the module, or a file of its own that
runs in the module's namespace."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import attnc
from attnc.emission.signature_text import print_signature
from attnc.errors import UnsupportedError
from attnc.family import OVER_REVERSE
from attnc.resources import read_template
from attnc.schedule import Schedule
from attnc.signature import Signature
from attnc.spec import Spec
from attnc.stages import Links, Member


@dataclass(frozen=True, slots=True)
class SetText:
    """What the template of a kernel set prints; every hole is finished text."""

    title: str
    signature: str
    cpu: str
    triton: str
    entry: str


# What torch differentiates where no kernel does.
OF_BACKWARDS = ("second", "second_emits", *OVER_REVERSE)


def stage_prefix(stage: str) -> str:
    """What the names of a pipeline's stage have before the suffix of a kernel set."""
    return f"_{stage.upper()}_" if stage else ""


def print_member(spec: Spec, member: Member, separate: bool, stage: str = "") -> SetText:
    """The text of a kernel set.

    separate    whether batch entries of the operator never mix
    stage       of a pipeline, whose stage it is
    Raises UnsupportedError where no backend can run it."""
    title = member.name.replace("_", " ")
    suffix = f"_{member.name.upper()}"
    texts, refusals = emit_kernels(member.schedules)
    text = print_set(
        spec, member.signature, texts, suffix, title, separate, member.results, member.links,
        refusals, stage, member.emits,
    )  # fmt: skip
    if not refusals or member.name not in OF_BACKWARDS:
        return text
    function, formula = _formula(spec, member.name, stage)
    whole = text.entry.removesuffix(")") + f"    formula={formula},\n)"
    return replace(text, entry=f"{function}{whole}")


def emit_kernels(schedules: Mapping[str, Schedule]) -> tuple[dict[str, str], dict[str, str]]:
    """The texts of the backends that can run a set, and why the others cannot, by backend."""
    from attnc.backends import cpu, triton

    emitters = {"cpu": cpu.emit, "triton": triton.emit}
    texts: dict[str, str] = {}
    refusals: dict[str, UnsupportedError] = {}
    for backend, schedule in schedules.items():
        try:
            texts[backend] = emitters[backend](schedule).strip("\n")
        except UnsupportedError as refusal:
            refusals[backend] = refusal
    if not texts:
        raise next(iter(refusals.values()))
    return texts, {backend: refusal.feature for backend, refusal in refusals.items()}


def print_set(
    spec: Spec,
    signature: Signature,
    texts: Mapping[str, str],
    suffix: str = "",
    title: str = "",
    separate: bool = True,
    results: int = 1,
    links: Links | None = None,
    refusals: Mapping[str, str] | None = None,
    stage: str = "",
    emits: bool = False,
) -> SetText:
    """The text of a set whose kernels are printed. Of a module's first set the suffix is empty."""
    prefix = stage_prefix(stage)
    whole = prefix + suffix
    parts = {
        "signature": print_signature(spec, signature, suffix, results, separate, prefix),
        "cpu": _cpu_text(texts["cpu"], whole) if "cpu" in texts else "",
        "triton": _triton_text(texts["triton"], suffix, spec.name, whole, stage)
        if "triton" in texts
        else "",
    }
    content = (attnc.__version__, *parts.values(), repr(links))
    digest = hashlib.sha256("\0".join(content).encode()).hexdigest()
    name = suffix.lower().strip("_")
    fields = [f"SIGNATURE{whole}", repr(digest[:40])]
    fields += [f"cpu=CPU_SOURCE{whole}"] if parts["cpu"] else []
    fields += [f"cuda=TRITON_KERNELS{whole}"] if parts["triton"] else []
    fields += [f"links={_links(links)}"] if links and links != Links() else []
    fields += ["emits=True"] if emits else []
    if refusals:
        devices = {"triton": "cuda", "cpu": "cpu"}
        fields.append(f"refusals={ {devices[name]: why for name, why in refusals.items()}!r}")
    body = "".join(f"    {field},\n" for field in fields)
    entry = f"{_sets(stage)}[{name!r}] = KernelSet(\n{body})"
    return SetText(title=f"{stage}: {title}" if stage else title, entry=entry, **parts)


def print_refusal(spec: Spec, name: str, refusal: UnsupportedError, stage: str = "") -> str:
    """The entry of a set that cannot be derived; of a backward's derivative with the formula that
    torch differentiates instead."""
    words = (refusal.feature, refusal.backend, tuple(refusal.instead))
    entry = f"{_sets(stage)}[{name!r}] = Refusal("
    if name not in OF_BACKWARDS:
        return f"{entry}{', '.join(map(repr, words))})"
    function, formula = _formula(spec, name, stage)
    fields = "".join(f"    {field},\n" for field in (*map(repr, words), formula))
    return f"{function}{entry}\n{fields})"


def _formula(spec: Spec, name: str, stage: str) -> tuple[str, str]:
    """(the text of a dense formula, what names it): the module's own, but a stage has one of its
    own."""
    from attnc.backends.eager import argument_names, emit_eager

    called = f"eager_{stage}_{name}" if stage else "eager"
    text = emit_eager(spec, called).strip("\n") + "\n\n\n" if stage else ""
    names = {given: other for given, other in argument_names(spec).items() if given != other}
    return text, f"Formula({called}, {names!r})"


def _sets(stage: str) -> str:
    return f"SETS[{stage!r}]" if stage else "SETS"


@cache
def cpu_headers() -> Mapping[str, str]:
    """The C++ headers that the sets of a module share, by the name that they have there: those of
    every kernel, of sums that leave a tile, of scans. In a text they stand in this order."""
    from attnc.backends import cpu

    return {
        "CPU_HEADERS": cpu.headers(),
        "CPU_SWEEP_HEADERS": cpu.headers(cpu.SWEEP_HEADERS),
        "CPU_SCAN_HEADERS": cpu.headers(cpu.SCAN_HEADERS),
    }


def _cpu_text(text: str, suffix: str) -> str:
    """`CPU_SOURCE = ...`, the headers by name."""
    pieces, rest = [], text
    for name, headers in cpu_headers().items():
        before, found, after = rest.partition(headers)
        if found:
            pieces += [f'r"""{before}"""', name]
            rest = after
    if not pieces:
        return f'CPU_SOURCE{suffix} = r"""{text}\n"""'
    return f'CPU_SOURCE{suffix} = "".join(({", ".join(pieces)}, r"""{rest}\n"""))'


def triton_prelude() -> str:
    """The Triton helpers that the sets of a module share."""
    return read_template("triton/prelude.py.jinja").strip("\n")


def _triton_text(text: str, suffix: str, operator: str, whole: str, stage: str) -> str:
    """The functions and the table; the prelude stands once in the module. A training form has the
    operator's own names for its kernels: within a module they take the set's name, and those that
    are not named after their operator the stage's."""
    body = text.replace(triton_prelude(), "", 1).strip("\n")
    for name in defined_names(body):
        rest = name.removeprefix(f"kernel_{operator}")
        mark = "" if suffix.lower() in rest else suffix.lower()
        mark += f"_{stage}" if stage and rest == name else ""
        body = re.sub(rf"\b{name}\b", name + mark, body) if mark else body
    head, table, after = body.rpartition("TRITON_KERNELS = ")
    return f"{head}TRITON_KERNELS{whole} = {after}" if table else body


def defined_names(text: str) -> set[str]:
    """The functions that a text of kernels defines."""
    return {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}


def _links(links: Links) -> str:
    fields = [
        f"{name}={getattr(links, name)!r}" for name in links.__slots__ if getattr(links, name)
    ]
    return f"Links({', '.join(fields)})"
