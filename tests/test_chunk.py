"""Recurrences: what a transition is, and the sequential form, interpreted against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from attnc.backends.numpy_oracle import evaluate as oracle
from gallery_cases import defaults
from recurrences import SPECS
from schedule_interpreter import Interpreter

from attnc.cases import Shape, draw_case
from attnc.errors import UnsupportedError
from attnc.expressions.text import expression_text
from attnc.front import load_source, read_spec
from attnc.graph import Graph
from attnc.passes import lower
from attnc.passes.affine import Transition, log_decay, sentence, shrinks, transitions
from attnc.passes.pipeline import prepare
from attnc.schedule.scans import ScanKernel
from attnc.spec import Spec

SHAPE = Shape(6, 6, 3, 4, 2, 2, 2)


def spec_of(text: str) -> Spec:
    return read_spec(load_source(text.lstrip()))


def transitions_of(graph: Graph) -> tuple[Transition, ...]:
    (recurrence,) = graph.recurrences
    indices = graph.outputs[0].array.indices
    return transitions(recurrence, indices[: indices.index(recurrence.time)])


def of(name: str) -> Transition:
    return transitions_of(prepare(spec_of(SPECS[name][1])))[0]


# transitions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_what_a_transition_is(name: str) -> None:
    kinds, text = SPECS[name]
    assert tuple(one.kind for one in transitions_of(prepare(spec_of(text)))) == kinds


def test_the_parts_of_a_delta_rule() -> None:
    found = of("rwkv7")
    (correction,) = found.low_rank
    assert [index.name for index in found.along] == ["d"]
    assert correction.along.name == "d"
    assert correction.bound not in correction.left.free
    assert correction.along not in correction.right.free
    assert found.added is not None
    assert expression_text(found.added).startswith("k[")


def test_decays_that_are_proved_to_shrink() -> None:
    proved = {"gla", "mamba", "mamba2", "constant_decay", "rg_lru", "value_decay", "rwkv6"}
    assert all(shrinks(of(name)) for name in (*proved, "document_reset"))
    free = spec_of("""
attention free(q, k, v) for t:
    input g: real[b, h, t]
    state S: real[d, e] = 0
    update:
        S = exp(g[t]) * S + outer(k[t], v[t])
    read: q[t] @ S
""")
    (found,) = transitions_of(prepare(free))
    assert not shrinks(found)
    assert "not proved" in sentence(found)


def test_the_logarithm_of_a_decay() -> None:
    exponent = log_decay(of("value_decay"))
    assert exponent is not None
    assert expression_text(exponent) == "-softplus(-g[b, h, t, e])"
    exponent = log_decay(of("document_reset"))
    assert exponent is not None
    assert exponent.op == "where" and expression_text(exponent.args[2]) == "-inf"
    assert log_decay(of("min_gru")) is not None
    assert log_decay(of("shift_register")) is None


def test_explain_says_what_was_found() -> None:
    notes = lower(spec_of(SPECS["gated_delta"][1])).notes
    assert notes[0].startswith("S: decayed by exp(-softplus(g[b, h, t])) and corrected in rank 1")
    assert "row by row" in notes[-1]
    (note, *_) = lower(spec_of(SPECS["nonlinear"][1])).notes
    assert note == "S: the update is not affine in the states: `tanh` of a state."


# the sequential form ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_rows_are_the_oracle(name: str) -> None:
    spec = spec_of(SPECS[name][1])
    schedule = lower(spec)
    case = draw_case(spec, SHAPE, 2)
    numbers = {**defaults(spec), **case.numbers}
    width = case.tensors.get("q", next(iter(case.tensors.values()))).shape[-1]
    numbers.setdefault("scale", width**-0.5)
    expected = oracle(spec, case.tensors, case.numbers)["out"]
    found = Interpreter(schedule, dict(case.tensors), numbers).run()["out"]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_small_parts_are_computed_once() -> None:
    """Numbers of an instance before the rows; sums of a row as values of their own."""
    (kernel,) = lower(spec_of(SPECS["gated_delta"][1])).kernels
    assert isinstance(kernel, ScanKernel)
    for expr in (*kernel.loop.advance, *(store.expr for store in kernel.stores)):
        assert "sum(" not in expression_text(expr)
        assert "exp(" not in expression_text(expr)
    (mamba,) = lower(spec_of(SPECS["mamba"][1])).kernels
    assert isinstance(mamba, ScanKernel)
    assert any("exp(A[c, n])" in expression_text(let.expr) for let in mamba.grid_values)


REFUSED = {
    "query_carry": """
attention carry(q, k, v):
    state used: real[j] = 0
    score: dot(q[i], k[j]) + used[j]
    normalize: softmax(j: score)
    update:
        used[j] = used[j] + weight
""",
    "selection": """
attention select(x) for t:
    input x: real[b, t, c]
    state s: real[c] = 0
    update:
        s[c] = s + where(topk(a in c: x[t, a], 2)[c], 1, 0)
    read: s
""",
    "complex": """
attention turning(x) for t:
    input x: real[b, t, c], w: complex[c]
    state s: complex[c] = 0
    update:
        s = w * s + x[t]
    read: re(s)
""",
    "pipeline": """
pipeline nested(x) for t:
    input x: real[b, t, c]
    attention inner for u in t:
        state s: real[c] = 0
        update:
            s = s + x[u]
        read: s
    read: inner[t] * 2
""",
}


@pytest.mark.parametrize("feature", REFUSED)
def test_what_is_refused(feature: str) -> None:
    with pytest.raises(UnsupportedError, match=feature):
        lower(spec_of(REFUSED[feature]))
