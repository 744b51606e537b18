"""The axes, inputs and small words that the specimens share.

A specimen is a Graph and a Schedule written by hand, without codegen: it shows that the types carry
an operator that no pass makes yet. Each module of `specimens/` has `graph()` and `schedule()`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from spec_builder import X, lift, op

from attnc.expressions import tree
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import TRUE, Array, Kind
from attnc.graph import Graph, GraphOutput
from attnc.schedule import Kernel, Schedule, Workspace
from attnc.schedule.regions import Region
from attnc.signature import NumberArgument, Signature, TensorArgument
from attnc.signature_of import lengths_of

B, H = Axis("b"), Axis("h")
HK = Axis("hk", "coarse", of=H)
I_AXIS, J_AXIS = Axis("i", shifted="offset"), Axis("j", shifted="key_offset")
D, E = Axis("d"), Axis("e")
GROUP = Axis("g", "range", length=tree.call("floordiv", tree.length(H), tree.length(HK)))
LAG = Axis("lag")

b, h, hk, g = Index("b", B), Index("h", H), Index("hk", HK), Index("g", GROUP)
i, j, d, e = Index("i", I_AXIS), Index("j", J_AXIS), Index("d", D), Index("e", E)
lag = Index("lag", LAG)


def bound(index: Index, number: int = 1) -> Index:
    """Another index on the axis of `index`, for a fold."""
    return Index(index.name, index.axis, number)


def tensor(name: str, *indices: Index, kind: Kind = "real") -> Array:
    return Array(name, indices, kind, "input")


def output(name: str, *indices: Index, kind: Kind = "real") -> Array:
    return Array(name, indices, kind, "output")


def space(name: str, *indices: Index, kind: Kind = "real") -> Array:
    return Array(name, indices, kind, "workspace")


q, k, v = tensor("q", b, h, i, d), tensor("k", b, hk, j, d), tensor("v", b, hk, j, e)
KEY_HEAD = op("floordiv", h, op("floordiv", tree.length(H), tree.length(HK)))
SCALE = op("div", 1.0, op("sqrt", op("to_real", tree.length(D))))
LOG2_E, LN_2 = 1.4426950408889634, 0.6931471805599453
WHOLE = Region(TRUE, TRUE)
SOME = Region(TRUE, tree.FALSE)


def at(array: Array, *places: Any) -> X:
    """array[places], one for each dimension."""
    return X(tree.read(array, [lift(place) for place in places]))


def total(monoid: str, over: Index | Iterable[Index], body: Any, condition: Any = None) -> X:
    indices = (over,) if isinstance(over, Index) else tuple(over)
    test = TRUE if condition is None else lift(condition)
    return X(tree.fold(monoid, indices, lift(body), test))


def named(name: str, *over: Index, kind: Kind = "real") -> X:
    """A tile value."""
    return X(tree.value(name, kind, over))


def param(name: str, kind: Kind = "int") -> X:
    return X(tree.param(name, kind))


def dot(query: Any = i, key: Any = j) -> X:
    """The scaled score of a pair, grouped heads."""
    c = bound(d)
    return total("sum", c, at(q, b, h, query, c) * at(k, b, KEY_HEAD, key, c)) * SCALE


def graph_of(name: str, *outputs: tuple[Array, Any], **rest: Any) -> Graph:
    made = tuple(GraphOutput(array, lift(expr)) for array, expr in outputs)
    return Graph(name, made, **rest)


def schedule_of(
    name: str,
    inputs: Iterable[Array],
    outputs: Iterable[Array],
    kernels: Iterable[Kernel],
    spaces: Iterable[Array] = (),
    params: Iterable[tuple[str, Kind]] = (),
    widths: Iterable[Axis] = (D, E),
) -> Schedule:
    given, made = tuple(inputs), tuple(outputs)
    signature = Signature(
        name,
        tuple(
            TensorArgument(a, "query" if a.kind == "real" else "int", "input", True) for a in given
        ),
        tuple(TensorArgument(a, "query", "output") for a in made),
        tuple(NumberArgument(param_name, kind) for param_name, kind in params),
        lengths_of(given),
        I_AXIS,
        J_AXIS,
    )
    used = tuple(Workspace(array, "accumulate") for array in spaces)
    return Schedule(name, signature, tuple(kernels), used, tuple(widths))
