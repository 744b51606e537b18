"""Second order of a Graph: forms of it that are equal, of which kernels take the first they can.

With G(x, g) the gradient of <g, f(x)> by x, and H its derivative by x, which is symmetric (what
`stop` holds fast in f is held fast in G too):

    gradient of <v, G> by x and g       H v,  and the tangent of f along v
    tangent of G along (x', g')         H x' + G(x, g')

and H v is the gradient of <v, G> by x, or the tangent of G along v. The two sum in other orders:
an outer product that one would sum over the keys is two products along widths in the other.

does      gives the forms in order, first the passes applied twice
needs     a Graph without iterations, and its gradients
does not  lower any of them
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from attnc.errors import UnsupportedError
from attnc.expressions.tree import Array, position, read
from attnc.graph import Graph, GraphOutput
from attnc.passes.differentiate import Pullback, cotangents, differentiate, finished, inputs_of
from attnc.passes.simplify import make
from attnc.passes.tangent import Pushforward, tangent, tangents

T = TypeVar("T")
Fixed = frozenset[str]  # real inputs, by name, that nothing is differentiated by
Form = Callable[[Graph, Graph, Fixed], Graph]


def first_lowered(
    forms: Iterable[Form],
    graph: Graph,
    derivative: Graph,
    lower: Callable[[Graph], T],
    fixed: Fixed = frozenset(),
) -> T:
    """What the first form is lowered to that is not refused; else the first refusal."""
    refusal: UnsupportedError | None = None
    for form in forms:
        try:
            return lower(form(graph, derivative, fixed))
        except UnsupportedError as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal


# --- gradients of gradients -----------------------------------------------------------------------


def _twice(graph: Graph, derivative: Graph, fixed: Fixed) -> Graph:
    return differentiate(derivative, [array.name for array in _reals(derivative, fixed)])


def _pushed_by_cotangents(graph: Graph, derivative: Graph, fixed: Fixed) -> Graph:
    """What cotangents get as the tangent of the operator."""
    return _pushed(graph, derivative, fixed, whole=False)


def _pushed_twice(graph: Graph, derivative: Graph, fixed: Fixed) -> Graph:
    """The same, and what inputs get as the tangents of their gradients."""
    return _pushed(graph, derivative, fixed, whole=True)


def _pushed(graph: Graph, derivative: Graph, fixed: Fixed, whole: bool) -> Graph:
    second, again = _twice(graph, derivative, fixed), cotangents(derivative)
    of = _gradients(graph, derivative, fixed)
    directions = {name: again[output.array.name] for name, output in of.items()}
    forward, backward = Pushforward(graph, directions), Pushforward(derivative, directions)
    given = cotangents(graph)
    values = {given[o.array.name].name: o.expr for o in graph.outputs if o.array.name in given}
    outputs = []
    for array, output in zip(_reals(derivative, fixed), second.outputs, strict=True):
        if array.name in values:
            output = replace(output, expr=finished(forward.of(values[array.name])))
        elif whole:
            output = replace(output, expr=finished(backward.of(of[array.name].expr)))
        outputs.append(output)
    return replace(second, outputs=tuple(outputs))


GRADIENTS_AGAIN: tuple[Form, ...] = (_twice, _pushed_by_cotangents, _pushed_twice)


# --- tangents of gradients ------------------------------------------------------------------------


def _moved(graph: Graph, derivative: Graph, fixed: Fixed) -> Graph:
    moved = tangent(derivative, moving(derivative, fixed))
    return replace(moved, outputs=moved.outputs[len(derivative.outputs) :])


def _pulled(graph: Graph, derivative: Graph, fixed: Fixed) -> Graph:
    """H x' as the gradient of <x', G>, and G(x, g') beside it."""
    moved = _moved(graph, derivative, fixed)
    dots = tangents(derivative, moving(derivative, fixed))
    of, given = _gradients(graph, derivative, fixed), cotangents(graph)
    turned, pulled = (Pullback(each, frozenset(of)) for each in (derivative, graph))
    for name, output in of.items():
        if name in dots:
            _begin(turned, output, dots[name])
    for output in graph.outputs:
        cotangent = given.get(output.array.name)
        if cotangent is not None and cotangent.name in dots:
            _begin(pulled, output, dots[cotangent.name])
    turned.run()
    pulled.run()
    outputs = []
    known = {array.name: array for array in inputs_of(graph)}
    named = {f"{gradient.array.name}_dot": name for name, gradient in of.items()}
    for output in moved.outputs:
        array, indices = known[named[output.array.name.rstrip("_")]], output.array.indices
        parts = (each.gradient(array, indices) for each in (turned, pulled))
        outputs.append(replace(output, expr=finished(make("add", *parts))))
    return replace(moved, outputs=tuple(outputs))


def _begin(pullback: Pullback, output: GraphOutput, cotangent: Array) -> None:
    indices = output.array.indices
    pullback.begin_at(output.expr, read(cotangent, map(position, indices)), frozenset(indices))


TANGENTS_OF_GRADIENTS: tuple[Form, ...] = (_moved, _pulled)


def _gradients(graph: Graph, derivative: Graph, fixed: Fixed) -> dict[str, GraphOutput]:
    """The gradient of each input that has one, by the input's name."""
    return {a.name: o for a, o in zip(_reals(graph, fixed), derivative.outputs, strict=True)}


def _reals(graph: Graph, fixed: Fixed) -> list[Array]:
    return [a for a in inputs_of(graph) if a.kind == "real" and a.name not in fixed]


def moving(graph: Graph, fixed: Fixed) -> Fixed | None:
    """The real inputs that move, None for all."""
    return frozenset(array.name for array in _reals(graph, fixed)) if fixed else None


__all__ = ["GRADIENTS_AGAIN", "TANGENTS_OF_GRADIENTS", "first_lowered", "moving"]
