"""Prints the signature of an operator as the plain data of attnc/runtime/call.py."""

from __future__ import annotations

from attnc.emission.python_numbers import print_python
from attnc.expressions.index import Axis
from attnc.expressions.tree import Expr, call, length
from attnc.signature import Signature, TensorArgument
from attnc.spec import Spec


def print_signature(spec: Spec, signature: Signature) -> str:
    """The definitions `_lengths`, `_defaults`, `_requirements` and `SIGNATURE` of a module."""
    return "\n\n".join(
        (
            _print_lengths(spec, signature),
            _print_defaults(signature),
            _print_requirements(spec, signature),
            _print_constant(spec, signature),
        )
    )


def _print_lengths(spec: Spec, signature: Signature) -> str:
    lines = [
        f"known.setdefault({number.name!r}, {print_python(number.default)})"
        for number in signature.numbers
        if number.default is not None
    ]
    lines += [
        f"known[{'len_' + axis.name!r}] = {print_python(_length_of(axis))}"
        for axis in spec.axes
        if axis.form in ("range", "product")
    ]
    return _function(
        "_lengths(known: dict[str, Any]) -> None",
        "Adds defaults of numbers and the lengths that follow from others.",
        lines or ["pass"],
    )


def _length_of(axis: Axis) -> Expr:
    """The length of a range axis, or the product of the lengths of the coordinates."""
    if axis.length is not None:
        return axis.length
    product = _length_of(axis.parts[0]) if axis.parts else length(axis)
    for part in axis.parts[1:]:
        product = call("mul", product, _length_of(part))
    return product


def _print_defaults(signature: Signature) -> str:
    entries = [
        f"    {tensor.name!r}: {print_python(tensor.default)},"
        for tensor in signature.inputs
        if tensor.optional and tensor.default is not None
    ]
    return _function(
        "_defaults(known: Mapping[str, Any]) -> dict[str, Any]",
        "What an optional tensor holds when it is left out.",
        ["return {", *entries, "}"],
    )


def _print_requirements(spec: Spec, signature: Signature) -> str:
    entries = [
        f"    ({print_python(needed.condition)}, {needed.message!r}),"
        for needed in signature.requirements
    ]
    entries += [
        f"    ({print_python(part.length)} >= 0, {f'the length of {part.name} is 0 or more'!r}),"
        for axis in spec.axes
        for part in (*axis.parts, axis)
        if part.form == "range" and part.length is not None
    ]
    return _function(
        "_requirements(known: Mapping[str, Any]) -> tuple[tuple[Any, str], ...]",
        "What the lengths and numbers of a call must satisfy.",
        ["return (", *entries, ")"],
    )


def _function(head: str, summary: str, lines: list[str]) -> str:
    body = "\n".join(f"    {line}" for line in lines)
    return f'def {head}:\n    """{summary}"""\n{body}'


def _print_constant(spec: Spec, signature: Signature) -> str:
    statics = [
        f"({number.name!r}, {print_python(number.default)})"
        for number in spec.numbers
        if number.static and number.default is not None
    ]
    coarse = [f"({a.name!r}, {a.of.name!r})" for a in spec.axes if a.form == "coarse" and a.of]
    numbers = [
        f"NumberSlot({n.name!r}, {n.kind!r}{', optional=True' if n.default is not None else ''})"
        for n in signature.numbers
    ]
    fields = [
        f"name={signature.name!r}",
        f"inputs={_tuple([_print_tensor(t) for t in signature.inputs])}",
        f"outputs={_tuple([_print_tensor(t) for t in signature.outputs])}",
        f"numbers={_tuple(numbers)}",
        f"statics={_tuple(statics)}",
        f"coarse={_tuple(coarse)}",
        f"rows={signature.rows.name if signature.rows else ''!r}",
        f"keys={signature.keys.name if signature.keys else ''!r}",
        f"random={signature.random}",
        "lengths=_lengths",
        "defaults=_defaults",
        "requirements=_requirements",
    ]
    body = "".join(f"    {field},\n" for field in fields)
    return f"SIGNATURE = Signature(\n{body})"


def _tuple(items: list[str]) -> str:
    if not items:
        return "()"
    if len(items) == 1:
        return f"({items[0]},)"
    return "(\n" + "".join(f"        {item},\n" for item in items) + "    )"


def _print_tensor(tensor: TensorArgument) -> str:
    axes = tuple(axis.name for axis in tensor.array.axes)
    flags = ", positional=True" if tensor.positional else ""
    flags += ", optional=True" if tensor.optional else ""
    return f"TensorSlot({tensor.name!r}, {axes!r}, {tensor.dtype!r}{flags})"
