"""Two partial rows of one softmax, each normalised with its lse, joined.

o = (exp(l_1 - m) o_1 + exp(l_2 - m) o_2) / (exp(l_1 - m) + exp(l_2 - m)),  m = max(l_1, l_2)
"""

from __future__ import annotations

from spec_builder import X, exp, lift, log, op, where
from specimen_frame import E, at, b, e, graph_of, h, i, named, output, schedule_of, tensor

from attnc.graph import Graph
from attnc.schedule import Schedule
from attnc.schedule.maps import MapKernel
from attnc.schedule.statements import Let, Store

FIRST, SECOND = tensor("first", b, h, i, e), tensor("second", b, h, i, e)
FIRST_LSE, SECOND_LSE = tensor("first_lse", b, h, i), tensor("second_lse", b, h, i)
OUT, LSE = output("out", b, h, i, e), output("lse", b, h, i)
ROW = (b, h, i)


def graph() -> Graph:
    """Without a stabilizer: the passes are to find it."""
    one, two = exp(at(FIRST_LSE, *ROW)), exp(at(SECOND_LSE, *ROW))
    whole = one * at(FIRST, *ROW, e) + two * at(SECOND, *ROW, e)
    merged = where((one + two).same(0.0), 0.0, whole / (one + two))
    return graph_of("merge_two", (OUT, merged), (LSE, log(one + two)), rows=(i,))


def _power(lse: X) -> X:
    top = named("top", *ROW)
    return where(lse.same(top), 1.0, exp(lse - top))


def schedule() -> Schedule:
    one, two = at(FIRST_LSE, *ROW), at(SECOND_LSE, *ROW)
    sums = named("one", *ROW) + named("two", *ROW)
    empty = op("eq", named("top", *ROW), float("-inf"))
    values = (
        Let("top", lift(op("max", one, two))),
        Let("one", lift(_power(one))),
        Let("two", lift(_power(two))),
        Let("inverse", lift(where(empty, 0.0, 1.0 / sums))),
    )
    joined = named("one", *ROW) * at(FIRST, *ROW, e) + named("two", *ROW) * at(SECOND, *ROW, e)
    stores = (
        Store(OUT, e, lift(joined * named("inverse", *ROW))),
        Store(LSE, None, lift(named("top", *ROW) + log(sums))),
    )
    inputs = (FIRST, SECOND, FIRST_LSE, SECOND_LSE)
    kernel = MapKernel("merge_two", ROW, values, stores)
    return schedule_of("merge_two", inputs, (OUT, LSE), (kernel,), widths=(E,))
