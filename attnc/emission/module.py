"""Puts a module together: support, signature, dense formula, kernels, the operator and its
function."""

from __future__ import annotations

import ast
import builtins
import hashlib
import keyword
from dataclasses import dataclass
from typing import TYPE_CHECKING

import attnc
from attnc.emission.bundle import BANNER, bundle_runtime
from attnc.emission.python_numbers import print_python
from attnc.emission.signature_text import print_signature
from attnc.errors import AttncError
from attnc.resources import template_environment
from attnc.signature import Signature

if TYPE_CHECKING:
    from attnc.schedule import Schedule
    from attnc.stages import Stages

REFERENCE_SUPPORT = (
    "failures", "call", "operator", "eager_slopes", "eager_numbers", "eager_support", "eager_calls",
)  # fmt: skip
SUPPORT = (
    *REFERENCE_SUPPORT,
    "cpu_build",
    "triton_plan",
    "triton_interpreter",
    "triton_launch",
    "triton_tune",
    "selfcheck",
)
KERNEL_LINES = (
    'BACKENDS = {"cpu": CpuBackend(CPU_SOURCE), "cuda": TritonBackend(TRITON_KERNELS, globals())}',
    'TritonTuner(BACKENDS["cuda"], Path(__file__).with_suffix(".tuned.json"), time_on_device)',
    "operator = KernelOperator(SIGNATURE, BACKENDS, DIGEST)",
)
SCRIPT_LINES = (
    'if __name__ == "__main__":',
    "    raise SystemExit(check_module(operator, reference))",
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
    cpu_source: str
    triton_source: str
    assembly: str


def print_module(stages: Stages) -> str:
    """The text of the module of an operator; without a schedule, of its dense formula alone.

    Raises AttncError for names that Python cannot carry."""
    from attnc.backends import eager
    from attnc.signature_of import signature_of

    spec, schedule = stages.spec, stages.schedule
    signature = schedule.signature if schedule else signature_of(spec, stages.graph)
    support = bundle_runtime(SUPPORT if schedule else REFERENCE_SUPPORT)
    check_names(signature, support)
    parts = {
        "signature": print_signature(spec, signature),
        "eager": eager.emit_eager(spec).strip("\n"),
        **_kernel_texts(schedule),
    }
    digest = hashlib.sha256("\0".join((attnc.__version__, *parts.values())).encode()).hexdigest()
    text = ModuleText(
        name=spec.name,
        version=attnc.__version__,
        spec_text=_quoted(spec.source.text),
        call_example=", ".join(t.name for t in signature.inputs if t.positional),
        support=support,
        banner=BANNER,
        assembly=_print_assembly(
            signature, digest, _renamed(eager.argument_names(spec)), schedule is not None
        ),
        **parts,
    )
    return template_environment().get_template("module/module.py.jinja").render(m=text)


def _kernel_texts(schedule: Schedule | None) -> dict[str, str]:
    """The texts of the kernels by hole; empty without a schedule."""
    from attnc.backends import cpu, triton

    if schedule is None:
        return {"cpu_source": "", "triton_source": ""}
    texts = {"cpu_source": cpu.emit(schedule), "triton_source": triton.emit(schedule)}
    return {name: text.strip("\n") for name, text in texts.items()}


def check_names(signature: Signature, support: str) -> None:
    """Names of the operator and its arguments become Python names, and they must not hide a name
    that the module itself uses or that every call has."""
    arguments = [t.name for t in signature.inputs] + [n.name for n in signature.numbers]
    for name in arguments:
        if name in ("offset", "key_offset", "key_length", "emit", "operator") or (
            name == "seed" and signature.random
        ):
            raise AttncError(
                f"{signature.name}: every operator has a `{name}` of its own; rename the argument"
            )
    axes = {f"len_{axis.name}" for t in signature.inputs for axis in t.array.axes}
    for name in arguments:
        if name in axes:
            raise AttncError(
                f"{signature.name}: `{name}` is how attnc calls the length of an axis; rename it"
            )
    for name in (signature.name, *arguments):
        if keyword.iskeyword(name) or name.startswith("__"):
            raise AttncError(
                f"{signature.name}: `{name}` cannot be a name in a Python module; rename it"
            )
    if signature.name in _taken_names(support):
        raise AttncError(
            f"`{signature.name}` is a name that every module of attnc uses; rename the operator"
        )


def _taken_names(support: str) -> set[str]:
    """What the support part defines or imports, with Python's own names."""
    taken = {"eager", "operator", "reference", *dir(builtins)}
    taken |= {"BACKENDS", "CPU_SOURCE", "DIGEST", "SIGNATURE", "TRITON_KERNELS"}
    for node in ast.parse(support).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            taken.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            taken.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            taken.update(target.id for target in targets if isinstance(target, ast.Name))
    return taken


def _quoted(text: str) -> str:
    """A spec inside a docstring: nothing in it can end the string or escape."""
    safe = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"').strip("\n")
    printable = "".join(c if c.isprintable() or c == "\n" else "?" for c in safe)
    return "\n".join(f"    {line}".rstrip() for line in printable.splitlines())


def _renamed(names: dict[str, str]) -> dict[str, str]:
    return {name: other for name, other in names.items() if name != other}


def _print_assembly(
    signature: Signature, digest: str, eager_names: dict[str, str], kernels: bool
) -> str:
    inputs = [t.name for t in signature.inputs if t.positional]
    optional = [f"{t.name}=None" for t in signature.inputs if not t.positional and t.optional]
    needed = [t.name for t in signature.inputs if not t.positional and not t.optional]
    numbers = [n.name if n.default is None else f"{n.name}=None" for n in signature.numbers]
    keywords = [*needed, *[n for n in numbers if "=" not in n], *optional]
    keywords += [n for n in numbers if "=" in n]
    extras = ["offset=0", "key_offset=0", "key_length=None"]
    extras += ["seed=0"] if signature.random else []
    head = ", ".join([*inputs, "*", *keywords, *extras, "emit=()"])
    names = [one.partition("=")[0] for one in [*keywords, *extras, "emit"]]
    passed = ", ".join([*inputs, *(f"{name}={name}" for name in names)])
    lines = [
        f"DIGEST = {digest[:40]!r}",
        f"reference = EagerOperator(SIGNATURE, eager, {eager_names!r})",
        *(KERNEL_LINES if kernels else ["operator = reference"]),
        "",
        "",
        f"def {signature.name}({head}):",
        *(f"    {line}".rstrip() for line in _docstring(signature)),
        f"    return operator({passed})",
    ]
    if kernels:
        lines += ["", "", *SCRIPT_LINES]
    return "\n".join(lines)


def _docstring(signature: Signature) -> list[str]:
    lines = [f'"""{signature.outputs[0].name}: {_axes(signature.outputs[0].array.axes)}', ""]
    for tensor in signature.inputs:
        given = " (optional)" if tensor.optional else ""
        lines.append(f"{tensor.name}: {tensor.dtype} {_axes(tensor.array.axes)}{given}")
    for number in signature.numbers:
        default = "" if number.default is None else f" = {print_python(number.default)}"
        lines.append(f"{number.name}: {number.kind}{default}")
    emits = ", ".join(output.name for output in signature.outputs[1:])
    lines.append("offset, key_offset: the first position of rows and keys, int or int tensor [b]")
    lines.append("key_length: how many keys count, int or int tensor [b]; None: all")
    lines.append(f"emit: further results to return, among: {emits or 'none'}")
    lines.append('"""')
    return lines


def _axes(axes: tuple[object, ...]) -> str:
    return "[" + ", ".join(getattr(axis, "name", "") for axis in axes) + "]"
