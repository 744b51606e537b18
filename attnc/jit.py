"""`@attnc.jit`: the language inside a model, for functions and for methods of an nn.Module.

    @attnc.jit
    def local(q, k, v, *, slope: "real[h]", window: int = 256):
        \"\"\"
        mask: 0 <= i - j < window
        score: dot(q[i], k[j]) * scale - slope * (i - j)
        normalize: softmax(j: score)
        \"\"\"

The signature declares the inputs and params, the docstring is the body. An annotation in the words
of the language
(`"real[h]"`, `"int[b, j]"`) is an input, `int`, `float` and `bool` are params; a default makes
either optional. Nothing of
the function's code runs: its body is the docstring alone.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
import threading
from collections.abc import Callable
from typing import Any, overload

from attnc.errors import AttncError
from attnc.source import Source

# Annotations for other readers, which say nothing of axes: the header's words stand.
UNTOLD = (inspect.Parameter.empty, Any, "Any", "typing.Any", "torch.Tensor", "Tensor")
TENSOR_CLASS = "Tensor"  # torch's, told by its name: this file does without torch
SCALARS = {int: "int", float: "real", bool: "bool", "int": "int", "float": "real", "bool": "bool"}


class JitFunction:
    """A decorated function: compiled at its first call, then an operator with its name and
    signature."""

    def __init__(self, function: Callable[..., Any], backend: str, header: str) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._backend = backend
        self._header = header
        self._lock = threading.Lock()
        self._operator: Any = None
        self._method = _first_parameter(function) == "self"
        self.source = source_of(function, header)

    @property
    def operator(self) -> Any:
        """The compiled operator (attnc.Operator)."""
        if self._is_missing():
            self._compile()
        return self._operator

    def _is_missing(self) -> bool:
        return self._operator is None

    def _compile(self) -> bool:
        from attnc.compiler import compile_source

        with self._lock:
            if self._operator is None:
                self._operator = compile_source(
                    self.source, self._function.__name__, backend=self._backend
                )
        return True

    # What torch.compiler.assume_constant_result sets: torch.compile calls these and traces none of
    # them. Written down here, since decorating does not load torch.
    _is_missing._dynamo_marked_constant = True  # type: ignore[attr-defined]
    _compile._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.operator(*args, **kwargs)

    def __reduce__(self) -> str:
        return self._function.__qualname__  # pickled by name, as functions are

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method: `self.local(q, k, v)`; a keyword that is not given is read off the instance
        if it has it."""
        if instance is None or not self._method:
            return self
        return functools.partial(_call_method, self, instance)


def _call_method(function: JitFunction, instance: Any, *args: Any, **kwargs: Any) -> Any:
    """Learned parameters of a module reach the operator by name: `self.slope` is the input
    `slope`."""
    for name in keyword_names(function._function):
        if name not in kwargs and getattr(instance, name, None) is not None:
            kwargs[name] = getattr(instance, name)
    return function.operator(*args, **kwargs)


@overload
def jit(function: Callable[..., Any]) -> JitFunction: ...
@overload
def jit(
    *, backend: str = "auto", header: str = ""
) -> Callable[[Callable[..., Any]], JitFunction]: ...
def jit(
    function: Callable[..., Any] | None = None, *, backend: str = "auto", header: str = ""
) -> Any:
    """Compiles the docstring of a function as an operator of its name.

    header: what follows the name's brackets in an operator's first line, such as `for i over j |
    m`."""
    if function is None:
        return lambda decorated: JitFunction(decorated, backend, header)
    return JitFunction(function, backend, header)


def _first_parameter(function: Callable[..., Any]) -> str:
    return next(iter(inspect.signature(function).parameters), "")


def keyword_names(function: Callable[..., Any]) -> list[str]:
    """The keyword-only parameters of a function."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def source_of(function: Callable[..., Any], header: str = "") -> Source:
    """The .attn text of a decorated function, with the Python file's name and lines.

    The header and declarations are put before the docstring's first line, so that every line of the
    body keeps its number."""
    body = function.__doc__
    if not body or not body.strip():
        raise AttncError(f"{function.__qualname__}: the operator is its docstring; there is none")
    lines, first_line = _docstring_lines(function, body)
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise AttncError(f"{function.__qualname__}: an operator has no *args and no **kwargs")
    places = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    told = [p for p in parameters if not _is_untold(p.annotation)]
    declared = [declaration(p, function) for p in told]
    missing = [p.name for p in parameters if p not in told and p.name not in places]
    if missing:
        example = f'`{missing[0]}: "real[h]"` or `{missing[0]}: int = 4`'
        raise AttncError(f"{function.__qualname__}: `{missing[0]}` needs an annotation: {example}")
    head = f"attention {function.__name__}({', '.join(places)}){' ' if header else ''}{header}:"
    body_lines, indent = _dedented(lines)
    text = "\n".join(
        [head, *("    " + line for line in declared), *("    " + b for b in body_lines)]
    )
    before = 1 + len(declared)
    name = inspect.getsourcefile(function) or "<python>"
    return Source(text + "\n", name, first_line - before, indent - 4)


def _is_untold(annotation: Any) -> bool:
    return annotation in UNTOLD or getattr(annotation, "__name__", "") == TENSOR_CLASS


def _dedented(lines: list[str]) -> tuple[list[str], int]:
    """The lines without the indentation that they share, and how deep it was. A line that stands
    beside the quotes has none of its own: it takes that of the next."""
    beside = lines[0] == lines[0].lstrip() and len(lines) > 1
    indented = lines[1:] if beside else lines
    shared = textwrap.dedent("\n".join(indented)).splitlines()
    depth = max((len(a) - len(b) for a, b in zip(indented, shared, strict=False) if b), default=0)
    return (lines[:1] if beside else []) + shared, depth


def _docstring_lines(function: Callable[..., Any], body: str) -> tuple[list[str], int]:
    """The docstring's lines from the first that holds something, and that line's number in its
    file."""
    lines = body.splitlines()
    skipped = next(number for number, line in enumerate(lines) if line.strip())
    try:
        code, start = inspect.getsourcelines(function)
    except (OSError, TypeError):
        return lines[skipped:], 1 + skipped
    wanted = lines[skipped].strip()
    offset = next((n for n, line in enumerate(code) if wanted in line), skipped)
    return lines[skipped:], start + offset


def declaration(parameter: inspect.Parameter, function: Callable[..., Any]) -> str:
    """`input slope: real[h]` or `param window: int = 256` for one annotated parameter."""
    annotation, default = parameter.annotation, parameter.default
    given = "" if default in (parameter.empty, None) else f" = {_spelled(default)}"
    if annotation in SCALARS:
        return f"param {parameter.name}: {SCALARS[annotation]}{given}"
    if isinstance(annotation, str):
        return f"input {parameter.name}: {annotation.strip(chr(34) + chr(39))}{given}"
    raise AttncError(
        f"{function.__qualname__}: the annotation of `{parameter.name}` is {annotation!r}; "
        'write int, float, bool, or the dimensions in quotes as in "real[h]"'
    )


def _spelled(default: Any) -> str:
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, (int, float)):
        return repr(default)
    raise AttncError(f"a default must be a number, not {default!r}")
