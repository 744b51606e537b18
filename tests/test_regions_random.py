"""Regions of random masks, the soundness of every operator, and mutants that must be caught."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as some
from region_cases import MaskCase, Regions, Wrong, audit, text_case

from attnc.expressions.evaluate import Environment, evaluate
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import (
    FALSE,
    TRUE,
    Array,
    Expr,
    call,
    number,
    param,
    position,
    postorder,
    read,
    rewrite,
    value,
)
from attnc.passes.integers import polynomial
from attnc.passes.intervals import Ranges, Registry
from attnc.passes.regions import regions
from attnc.schedule.regions import Region

I = Index("i", Axis("i"), 0)  # noqa: E741
J = Index("j", Axis("j"), 1)
DATA = Array("data", (Index("n", I.axis, 2),), "int", "input")
TURNS = Array("turns", (Index("n", J.axis, 3),), "real", "input")
PARAMS = {"a": 5, "b": 17}
SIDES = ("low", "high")

# --- random texts -------------------------------------------------------------------------------

DECLARED = (
    "param w, s, c: int; input doc, first: int[b, j]; input flag: bool[b, j]; "
    "input place: real[b, j]"
)


def random_atom(rng: np.random.Generator) -> str:
    """A comparison of the kinds that masks are made of."""
    a, b, k = int(rng.integers(1, 4)), int(rng.integers(1, 4)), int(rng.integers(2, 60))
    return str(rng.choice([
        "j <= i", f"i - j < {k}", f"abs(i - j) <= {k}", f"{a} * i - {b} * j < {k}",
        f"i + j < {4 * k}", f"j < {k}", f"i >= {k}", "i - j < w", f"(i - j) % {k} < {a}",
        f"j % {k} == {a}", f"i % {k} >= {a}", f"i // {k} == j // {k}", "i // s == j // s",
        f"i // {k} - j // {k} <= {a}", f"(i + {a}) % {k} <= j % {k}", "doc[i] == doc[j]",
        "first[i] <= j", "j < first[i] + w", "flag[j]", "abs(j - place[i]) <= w",
        f"max(i - {k}, c) <= j", f"j <= min(i + {k}, 2 * c)", f"j * {a} // {b + 3} <= i",
    ]))  # fmt: skip


def random_mask(rng: np.random.Generator) -> str:
    """Up to four atoms under `and`, `or` and `not`."""
    parts = [random_atom(rng) for _ in range(int(rng.integers(1, 5)))]
    text = parts[0]
    for part in parts[1:]:
        negated = f"not ({part})" if rng.random() < 0.2 else part
        text = f"({text}) {rng.choice(['and', 'or', 'and'])} ({negated})"
    return text


def random_case(seed: int, length: int = 280) -> MaskCase:
    rng = np.random.default_rng(seed)
    offset = int(rng.integers(0, 2)) * 100
    span = length + offset
    ints = {
        "doc": np.sort(rng.integers(0, 7, (1, span)), axis=1),
        "first": np.maximum(np.arange(span)[None] - rng.integers(0, 30, (1, span)), 0),
        "flag": rng.random((1, span)) < 0.05,
        "place": np.arange(span)[None] + rng.normal(0, 9, (1, span)),
    }
    return text_case(
        f"random_{seed}", random_mask(rng), DECLARED, rows=length, keys=span, offset=offset,
        arrays=ints, w=int(rng.integers(-3, 80)), s=int(rng.integers(1, 70)),
        c=int(rng.integers(0, 90)),
    )  # fmt: skip


def test_random_masks_are_never_wrong_and_tight() -> None:
    ratios, full, known = [], 0, 0
    for seed in range(120):
        case = random_case(seed)
        tile = ((16, 16), (64, 64), (128, 128), (64, 16))[seed % 4]
        found = audit(case, regions, tile, swapped=bool(seed // 4 % 2))
        if found.needed:
            ratios.append(found.ratio)
        full, known = full + found.full, known + found.known_full
    print(f"{statistics.median(ratios):.3f} {statistics.mean(ratios):.3f} full {known}/{full}")
    assert statistics.median(ratios) <= 1.1
    assert known >= 0.9 * full


# --- mutants ------------------------------------------------------------------------------------

CAUGHT_BY = [
    text_case("causal", "j <= i", exact=True),
    text_case("window", "0 <= i - j < size", "param size: int", size=37, exact=True),
    text_case("lags", "(i - j) % 40 <= 3 and j <= i", exact=True),
    text_case("wrapped", "(i + 5) % 40 < j % 40", exact=True),
    text_case("blocks", "i // size == j // size", "param size: int", size=48, exact=True),
]


def hold_to_the_law(implementation: Regions) -> None:
    """Fails for an implementation that is wrong or not tight."""
    for case in CAUGHT_BY:
        for tile in ((16, 16), (64, 64), (7, 33)):
            for swapped in (False, True):
                found = audit(case, implementation, tile, swapped)
                assert found.visited == found.needed
                assert found.known_full == found.full


def mutant(change: Callable[[Expr], Expr], field: str) -> Regions:
    def mutated(visible: Expr, held: Index, walked: Index) -> Region:
        region = replace(regions(visible, held, walked), segments=())
        tree: Expr = getattr(region, field)
        return replace(region, **{field: rewrite(tree, change)})

    return mutated


def moved(name: str, by: int) -> Callable[[Expr], Expr]:
    corner = value(name, "int")
    return lambda node: call("add", corner, number(by)) if node == corner else node


def unwrapped(node: Expr) -> Expr:
    """A remainder that never wraps: its first branch."""
    return node.args[1] if node.op == "where" and node.kind == "int" else node


MUTANTS: dict[str, Regions] = {
    "mixed everywhere": lambda visible, held, walked: Region(TRUE, FALSE),
    "full everywhere": lambda visible, held, walked: Region(TRUE, TRUE),
    "nothing": lambda visible, held, walked: Region(FALSE, FALSE),
    "possible, held_high - 1": mutant(moved("held_high", -1), "possible"),
    "possible, held_low + 1": mutant(moved("held_low", 1), "possible"),
    "possible, walked_low + 1": mutant(moved("walked_low", 1), "possible"),
    "possible, walked_low - 1": mutant(moved("walked_low", -1), "possible"),
    "certain, walked_high - 1": mutant(moved("walked_high", -1), "certain"),
    "certain, held_low + 1": mutant(moved("held_low", 1), "certain"),
    "certain, held_low - 1": mutant(moved("held_low", -1), "certain"),
    "remainders never wrap": mutant(unwrapped, "possible"),
}


def test_the_law_is_kept() -> None:
    hold_to_the_law(regions)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str) -> None:
    with pytest.raises(AssertionError):
        hold_to_the_law(MUTANTS[name])


# --- soundness of every operator ----------------------------------------------------------------


def integers(depth: int = 3) -> some.SearchStrategy[Expr]:
    leaves = some.one_of(
        some.sampled_from([position(I), position(J), param("a", "int"), param("b", "int")]),
        some.integers(-40, 40).map(number),
        some.just(read(DATA, (position(I),))),
    )

    def over(inner: some.SearchStrategy[Expr]) -> some.SearchStrategy[Expr]:
        two = some.sampled_from(["add", "sub", "mul", "min", "max"])
        divisor = some.one_of(
            some.integers(1, 12).map(number), some.sampled_from([param("a", "int")])
        )
        return some.one_of(
            some.builds(call, two, inner, inner),
            some.builds(call, some.sampled_from(["floordiv", "mod"]), inner, divisor),
            some.builds(call, some.sampled_from(["neg", "abs"]), inner),
            some.builds(lambda c, x, y: call("where", call("lt", c, x), x, y), inner, inner, inner),
        )

    return some.recursive(leaves, over, max_leaves=2**depth)


def truths() -> some.SearchStrategy[Expr]:
    compared = some.builds(
        call, some.sampled_from(["lt", "le", "gt", "ge", "eq", "ne"]), integers(2), integers(2)
    )
    away = call("sub", call("to_real", position(I)), read(TURNS, (position(J),)))
    real = some.builds(
        lambda op, bound: call(op, call("abs", away), number(bound)),
        some.sampled_from(["lt", "le", "gt", "ge"]), some.floats(0.0, 30.0),
    )  # fmt: skip
    return some.recursive(
        some.one_of(compared, compared, real),
        lambda inner: some.one_of(
            some.builds(call, some.sampled_from(["and", "or"]), inner, inner),
            some.builds(call, some.just("not"), inner),
            some.builds(call, some.just("where"), inner, inner, inner),
            some.builds(call, some.sampled_from(["eq", "ne"]), inner, inner),
        ),
        max_leaves=5,
    )


def ground(data: list[int], starts: tuple[int, int] = (0, 0)) -> Environment:
    turns = np.array([7.5, 3.0, np.nan, np.inf, -1.25, 40.0, 12.0] * 4)[: len(data)]
    return Environment(
        params=PARAMS,
        lengths={I.axis: len(data), J.axis: len(data)},
        starts={I.axis: starts[0], J.axis: starts[1]},
        arrays={"data": np.array(data), "turns": turns},
    )


DATA_LISTS = some.lists(some.integers(-50, 50), min_size=24, max_size=24)
SPAN = some.tuples(some.integers(0, 23), some.integers(0, 23)).map(sorted)
SLOW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@SLOW
@given(integers(), DATA_LISTS, SPAN, SPAN)
def test_bounds_hold_for_every_operator(
    expr: Expr, data: list[int], rows: list[int], keys: list[int]
) -> None:
    ranges = Ranges(Registry(I, J))
    bounds = ranges.of(polynomial(expr))
    at = ground(data)
    i, j = (np.arange(span[0], span[1] + 1) for span in (rows, keys))
    held = dict(zip(("held_low", "held_high"), rows, strict=True))
    walked = dict(zip(("walked_low", "walked_high"), keys, strict=True))
    values: dict[str, int] = {**held, **walked}
    for name, summary in ranges.registry.summaries.items():
        points = i if summary.index == I else j
        found = evaluate(summary.expr, replace(at, indices={summary.index: points}))
        values |= {f"{name}_low": int(np.min(found)), f"{name}_high": int(np.max(found))}
    given_values = replace(at, values=values)
    assume(all(bool(evaluate(one, given_values)) for one in ranges.registry.required.values()))
    seen = evaluate(expr, replace(at, indices={I: i[:, None], J: j[None, :]}))
    if bounds.low is not None:
        assert evaluate(bounds.low, given_values) <= seen.min()
    if bounds.high is not None:
        assert evaluate(bounds.high, given_values) >= seen.max()


@SLOW
@given(truths(), DATA_LISTS, some.tuples(some.integers(1, 9), some.integers(1, 9)))
def test_random_formulas_are_never_wrong(
    visible: Expr, data: list[int], tile: tuple[int, int]
) -> None:
    assume(visible.free >= {I, J})
    case = MaskCase("formula", visible, I, J, ground(data, (0, 0)))
    for swapped in (False, True):
        audit(case, regions, tile, swapped)


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("w", [2**62 - 1, 2**61, -(2**62) + 1, 0, -1])
def test_huge_numbers_never_wrap(w: int) -> None:
    for mask in ("0 <= i - j < w", "i - 3 < j + w", "i * w <= j * w", "j // 7 * w <= i"):
        case = text_case("huge", mask, "param w: int", rows=40, keys=40, w=w)
        if abs(w) > 2**40 and "*" in mask:
            continue  # the mask itself leaves 64 bits
        audit(case, regions, (16, 16))
        audit(case, regions, (16, 16), swapped=True)


def test_divisors_that_are_not_positive_make_tiles_mixed() -> None:
    case = text_case("down", "i // s == j // s", "param s: int", s=-5, rows=64, keys=64)
    found = audit(case, regions, (16, 16))
    assert found.visited == 16 and found.known_full == 0


def test_thousands_of_terms_and_depth_are_no_limit() -> None:
    i, j = position(I), position(J)
    wide, deep = call("le", j, i), call("le", j, i)
    for k in range(3000):
        wide = call("or", wide, call("eq", j, number(7 * k)))
    for k in range(600):
        op = "and" if k % 2 else "or"
        deep = call(op, deep, call("lt", call("sub", i, j), number(k)))
    nested = i
    for k in range(600):
        nested = call("abs", call("sub", nested, number(k % 3)))
    for visible in (wide, deep, call("le", j, nested)):
        region = regions(visible, I, J)
        assert sum(1 for _ in postorder(region.possible, region.certain)) < 60_000


def test_trees_stay_small() -> None:
    for seed in range(60):
        case = random_case(seed)
        region = regions(case.visible, case.row, case.key)
        size = sum(1 for _ in postorder(region.possible, region.certain))
        assert size < 1500, (seed, size)


def test_wrong_is_an_assertion() -> None:
    assert issubclass(Wrong, AssertionError)
