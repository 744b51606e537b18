"""Prints the signature of an operator as the plain data of attnc/runtime/call.py."""

from __future__ import annotations

from attnc.emission.python_numbers import print_python
from attnc.emission.read_texts import print_reads
from attnc.expressions.index import Axis
from attnc.expressions.tree import Expr, call, length, number, postorder
from attnc.signature import Signature, TensorArgument
from attnc.spec import Spec

# The kernel sets whose calls test positions that data decides: those that a user's tensors reach
# first.
STATEFUL = ("", "_CONTINUED")  # those that begin with states and give them back
TESTED = ("", "_PARTIAL", "_TRAINING", "_TRAINING_EMITS", "_TANGENT")


def print_signature(
    spec: Spec,
    signature: Signature,
    suffix: str = "",
    results: int = 1,
    separate: bool = True,
    prefix: str = "",
) -> str:
    """The definitions `_lengths`, `_defaults`, `_requirements` of a module, where there is
    something to say, and `SIGNATURE`, with a suffix for its further kernel sets.

    results     how many outputs every call returns
    separate    whether batch entries never mix
    prefix      what comes before the suffix: of a pipeline's stages"""
    known = Known(spec, signature)
    whole = prefix + suffix
    lower = whole.lower()
    flags = [f"results={results}"] if results != 1 else []
    flags += [] if separate else ["separate=False"]
    if suffix in STATEFUL and signature.states and signature.time:
        flags += [f"states={signature.states!r}", f"time={signature.time.name!r}"]
    reach = _print_reach(signature, lower) if signature.lags and not suffix else ""
    if reach:
        names = [f"({lag.name!r}, {lag.taker!r})" for lag in signature.lags]
        flags += [f"lags={_tuple(names)}", f"reach=_reach{lower}"]
    if signature.unbounded and not suffix:
        flags += [f"unbounded={signature.unbounded!r}"]
    if suffix in TESTED:
        flags += [f"reads={_tuple(print_reads(signature))}"] if signature.reads else []
    functions = {
        "lengths": _print_lengths(known, lower),
        "defaults": _print_defaults(signature, lower),
        "requirements": _print_requirements(known, lower),
    }
    said = {name: text for name, text in functions.items() if text}
    flags = [*(f"{name}=_{name}{lower}" for name in said), *flags]
    texts = [*said.values(), *([reach] if reach else ())]
    return "\n\n".join((*texts, _print_constant(spec, signature, whole, flags)))


class Known:
    """Which lengths and numbers a call of a signature knows: a partial result has fewer tensors
    than the operator, and measures fewer axes."""

    def __init__(self, spec: Spec, signature: Signature) -> None:
        self.spec = spec
        self.signature = signature
        self.sites = {one.axis.name: one.sites[0][0] for one in signature.lengths}
        self.numbers = {number.name for number in signature.numbers}
        statics = {number.name for number in spec.numbers if number.static}
        self.names = {f"len_{name}" for name in self.sites} | self.numbers | statics
        tensors = (*signature.inputs, *signature.outputs)
        own = dict.fromkeys(axis for tensor in tensors for axis in tensor.array.axes)
        made = [axis for axis in own if axis.length is not None and axis not in spec.axes]
        self.derived = [axis for axis in spec.axes if axis.form in ("range", "product")] + made
        self.derived = [axis for axis in self.derived if self._add(axis)]

    def _add(self, axis: Axis) -> bool:
        """Whether the length of an axis follows from what is known; it then is known too."""
        if not self.all_of(_length_of(axis)):
            return False
        self.names.add(f"len_{axis.name}")
        return True

    def leaves(self, expr: Expr) -> list[str]:
        """The lengths and numbers of an expression, as the call names them."""
        found: dict[str, None] = {}
        for node in postorder(expr):
            if node.op == "param":
                found[str(node.attr)] = None
            elif node.op == "length" and isinstance(node.attr, Axis):
                found[f"len_{node.attr.name}"] = None
        return list(found)

    def all_of(self, expr: Expr) -> bool:
        return all(name in self.names for name in self.leaves(expr))

    def blamed(self, expr: Expr) -> str:
        """The argument that an error about this condition names: a number, else what measures."""
        leaves = self.leaves(expr)
        for name in leaves:
            if name in self.numbers:
                return name
        measured = (self.sites.get(name.removeprefix("len_")) for name in leaves)
        return next((site for site in measured if site), self.signature.inputs[0].name)


def _print_lengths(known: Known, suffix: str) -> str:
    lines = [
        f"known.setdefault({number.name!r}, {print_python(number.default)})"
        for number in known.signature.numbers
        if number.default is not None and known.all_of(number.default)
    ]
    lines += [
        f"known[{'len_' + axis.name!r}] = {print_python(_length_of(axis))}"
        for axis in known.derived
    ]
    if not lines:
        return ""
    return _function(
        f"_lengths{suffix}(known: dict[str, Any]) -> None",
        "Adds defaults of numbers and the lengths that follow from others.",
        lines,
    )


def _length_of(axis: Axis) -> Expr:
    """The length of a range axis, or the product of the lengths of the coordinates."""
    if axis.length is not None:
        return axis.length
    product = _length_of(axis.parts[0]) if axis.parts else length(axis)
    for part in axis.parts[1:]:
        product = call("mul", product, _length_of(part))
    return product


def _print_defaults(signature: Signature, suffix: str) -> str:
    entries = [
        f"    {tensor.name!r}: {print_python(tensor.default)},"
        for tensor in signature.inputs
        if tensor.optional and tensor.default is not None
    ]
    if not entries:
        return ""
    return _function(
        f"_defaults{suffix}(known: Mapping[str, Any]) -> dict[str, Any]",
        "What an optional tensor holds when it is left out.",
        ["return {", *entries, "}"],
    )


def _print_requirements(known: Known, suffix: str) -> str:
    needed = [(one.condition, one.message) for one in known.signature.requirements]
    ranges = [
        part
        for axis in known.spec.axes
        for part in (*axis.parts, axis)
        if part.form == "range" and part.length is not None
    ]
    needed += [
        (call("ge", part.length, number(0)), f"the length of {part.name} is 0 or more")
        for part in ranges
        if part.length is not None
    ]
    entries = [
        f"    ({print_python(condition)}, {message!r}, {known.blamed(condition)!r}, "
        f"{tuple(known.leaves(condition))!r}),"
        for condition, message in needed
        if known.all_of(condition)
    ]
    if not entries:
        return ""
    return _function(
        f"_requirements{suffix}(known: Mapping[str, Any]) -> tuple[Requirement, ...]",
        "What the lengths and numbers of a call must satisfy.",
        ["return (", *entries, ")"],
    )


def _print_reach(signature: Signature, suffix: str) -> str:
    entries = [
        f"    ({print_python(lag.least)}, {print_python(lag.most)})," for lag in signature.lags
    ]
    return _function(
        f"_reach{suffix}(known: Mapping[str, Any]) -> tuple[tuple[int, int], ...]",
        "How many rows back its inputs are read, at least and at most.",
        ["return (", *entries, ")"],
    )


def _function(head: str, summary: str, lines: list[str]) -> str:
    body = "\n".join(f"    {line}" for line in lines)
    return f'def {head}:\n    """{summary}"""\n{body}'


def _print_constant(spec: Spec, signature: Signature, suffix: str, flags: list[str]) -> str:
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
        *flags,
    ]
    body = "".join(f"    {field},\n" for field in fields)
    return f"SIGNATURE{suffix} = Signature(\n{body})"


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
    flags += ", absent=True" if tensor.absent else ""
    return f"TensorSlot({tensor.name!r}, {axes!r}, {tensor.dtype!r}{flags})"
