"""What the checker says about values: kinds, shapes, stages and domains."""

from __future__ import annotations

from collections.abc import Sequence

from attnc.errors import Wording, message

# ---------------------------------------------------------------------------------------- kinds


@message("kind")
def truth_in_arithmetic(sign: str) -> Wording:
    return Wording(f"`{sign}` wants numbers; this is true or false.", "Choose: where(c, 1, 0).")


@message("kind")
def truth_compared(sign: str) -> Wording:
    return Wording(
        f"`{sign}` compares a truth with something else.",
        "Truths compare with == and != among themselves; a number is where(c, 1, 0).",
    )


@message("kind")
def complex_order(sign: str) -> Wording:
    return Wording(
        f"complex numbers have no order for `{sign}`.", "Compare re(x), im(x) or abs(x)."
    )


@message("kind")
def condition_wanted(where: str, kind: str) -> Wording:
    return Wording(f"`{where}` wants true or false; this is {_a(kind)}.", "Compare it: x != 0.")


@message("kind")
def mask_not_truth(text: str, kind: str) -> Wording:
    return Wording(
        f"mask wants true or false; `{text}` is {_a(kind)}.", f"Compare it: {text} != 0."
    )


@message("kind")
def clause_not_real(clause: str, kind: str) -> Wording:
    hint = "Which keys are seen is said in mask." if kind == "bool" else "Take re(x) or abs(x)."
    return Wording(f"{clause} wants a real number for each pair; this is {_a(kind)}.", hint)


@message("kind")
def branches_differ(yes: str, no: str) -> Wording:
    return Wording(
        f"the two values are {_a(yes)} and {_a(no)}.",
        "Both are truths, or both are numbers; beside a truth write `false`.",
    )


@message("kind")
def rounds_differ(name: str, before: str, now: str) -> Wording:
    return Wording(
        f"`{name}` is {_a(before)} before the repeat and {_a(now)} here.",
        "Both are truths, or both are numbers: where(c, 1, 0) is a number, x != 0 a truth.",
    )


@message("kind")
def whole_numbers_wanted(sign: str) -> Wording:
    return Wording(f"`{sign}` is for whole numbers.", "For reals: floor(a / b).")


@message("kind")
def number_wanted(function: str, kind: str) -> Wording:
    return Wording(f"`{function}` cannot take {_a(kind)}.")


@message("kind")
def index_not_whole(text: str, kind: str) -> Wording:
    return Wording(
        f"`{text}` is a subscript and {_a(kind)}.", f"Subscripts are whole: floor({text}), `//`."
    )


@message("kind")
def count_not_whole(text: str) -> Wording:
    return Wording(f"topk takes a whole number of entries; `{text}` is none.", "floor(n) is whole.")


@message("domain")
def count_beyond_row(axes: str, place: str, count: int, size: int) -> Wording:
    where = f" in {place}" if place else ""
    return Wording(
        f"topk over {axes}{where} is to choose {count} of {size}.",
        f"Choose between 0 and {size}; min(n, {size}) takes all where there are fewer.",
    )


@message("kind")
def key_not_ordered(function: str, kind: str) -> Wording:
    return Wording(f"`{function}` orders numbers; this is {_a(kind)}.", "where(c, 1, 0), re(x).")


@message("kind")
def truth_folded(function: str) -> Wording:
    return Wording(
        f"`{function}` folds numbers; this is true or false.",
        f"Count with {function}(j: where(c, 1, 0)), or ask any(j: c), all(j: c).",
    )


@message("kind")
def default_kind(name: str, kind: str, text: str) -> Wording:
    return Wording(f"the default of `{name}` is to be {_a(kind)}; `{text}` is not.")


@message("kind")
def static_kind(name: str, kind: str, came: str) -> Wording:
    return Wording(f"the static `{name}` is {_a(kind)}; {came} was given.")


@message("kind")
def state_kind(name: str, kind: str, came: str) -> Wording:
    return Wording(f"`{name}` is {_a(kind)}; this is {_a(came)}.", "int widens to real, no more.")


@message("kind")
def argument_kind(name: str, kind: str, came: str) -> Wording:
    return Wording(f"`{name}` is {_a(kind)}; the call gives {_a(came)}.")


@message("kind")
def complex_number(name: str) -> Wording:
    return Wording(f"`{name}`: a param is no complex number.", "Give two reals, or an input.")


@message("kind")
def read_not_number(*_: str) -> Wording:
    return Wording(
        "what an operator reads out is a number; this is true or false.",
        "Choose: where(c, 1, 0).",
    )


@message("kind")
def division_by_zero(sign: str) -> Wording:
    return Wording(f"`{sign}` by zero.")


@message("kind")
def gradient_of(text: str) -> Wording:
    return Wording(
        f"grad takes the derivative of one real number; `{text}` is none.", "miss @ miss"
    )


@message("kind")
def gradient_by(text: str) -> Wording:
    return Wording(f"grad is by a state or a local of the step; `{text}` is neither.")


@message("kind")
def number_argument(name: str) -> Wording:
    return Wording(f"`{name}` is a number for the whole call; this depends on an index.")


# --------------------------------------------------------------------------------------- shapes


@message("shape")
def axes_do_not_meet(sign: str, left: str, right: str) -> Wording:
    return Wording(
        f"`{sign}` joins {left} and {right}.",
        "One's axes must be the other's, or within them; see outer(x, y).",
    )


@message("shape")
def clause_vector(clause: str, pair: str, what: str, sources: str) -> Wording:
    """sources: all sources of keys, where the value is left over the keys of one."""
    hint = f"Bind every source, as in softmax({sources}: score)." if sources else ""
    return Wording(
        f"{clause} must be one number per ({pair}); this is {what}.", hint or "Fold it: dot(a, b)."
    )


@message("shape")
def vector_wanted() -> Wording:
    return Wording(
        "`@` (and `dot`) sums over an axis; this is one number.",
        "Multiply numbers with `*`. In an equation for x[d] a vector over d is its entry at d: "
        "sum(l in d: x[l] * y[l]) sums over all.",
    )


@message("shape")
def contraction(left: str, right: str) -> Wording:
    return Wording(
        f"`@` meets {left} on its left and {right} on its right.",
        "It sums over the last axis of the left and the first of the right: they must be one.",
    )


@message("shape")
def condition_is_vector(axes: str) -> Wording:
    return Wording(
        f"a condition is one truth; this is one for each {axes}.",
        "any(d: c), all(d: c)",
    )


@message("shape")
def key_is_vector(function: str, what: str) -> Wording:
    return Wording(f"`{function}` orders numbers; this is {what}.", "Fold it: dot(a, b).")


@message("shape")
def axes_of_left_side(name: str, what: str, axes: str) -> Wording:
    return Wording(f"`{name}` has {axes}; this is {what}.", "Fold the rest, or declare its axes.")


@message("shape")
def solve_number(text: str, what: str) -> Wording:
    return Wording(f"solve is about one real number; `{text}` is {what}.")


@message("shape")
def single_index_wanted(function: str) -> Wording:
    return Wording(f"`{function}` gives one index, so it binds one.")


@message("shape")
def union_in_selection(function: str) -> Wording:
    return Wording(f"`{function}` orders one axis, not a union of sources.", "Select from one.")


@message("shape")
def tuple_outside() -> Wording:
    return Wording("`(a, b)` stands in brackets only: coordinates on a product axis.", "x[(y, x)]")


@message("shape")
def range_outside() -> Wording:
    return Wording("`a .. b` stands after `in` only.", "0 <= x < n, or x in 0 .. n.")


@message("shape")
def range_wanted() -> Wording:
    return Wording("`in` asks for a range here.", "x in 0 .. n; one of a selection is chosen[x].")


@message("shape")
def number_with_axes(name: str, stage: str) -> Wording:
    return Wording(f"`{name}` is a {stage}: one number.", f"A tensor is `input {name}: real[...]`.")


# --------------------------------------------------------------------------------------- stages


@message("stage")
def param_as_shape(name: str, what: str) -> Wording:
    return Wording(f"`{name}` {what} and is a param.", "Declare it static: one kernel per value.")


@message("legality")
def solve_bracket(name: str, low: str, high: str) -> Wording:
    return Wording(
        f"the bracket of `{name}` is empty: {high} is below {low}.",
        f"The smaller end comes first: {high} .. {low}.",
    )


@message("legality")
def solve_infeasible(name: str, where: str, larger: str, smaller: str) -> Wording:
    return Wording(
        f"no `{name}` solves this: {where} {larger} is above {smaller}.",
        "The sides cross once in a bracket: one is above the other at one end, below at the other.",
    )


@message("legality")
def solve_without_unknown(name: str) -> Wording:
    return Wording(f"neither side of the equation has `{name}`.", "solve x in a .. b: f(x) == c")


# -------------------------------------------------------------------------------------- domains


@message("domain")
def read_outside(text: str, position: str, place: str, end: str) -> Wording:
    told = f"{text} reads {position} at {place}."
    instead = f"`{text} else 0` (`else false` for a truth); or hide those keys in mask."
    if end:
        later = f"Its axis ends before {end}, as LOW .. HIGH does before HIGH: end it one later"
        return Wording(told, f"{later}, or say what stands there: {instead}")
    return Wording(told, f"Say what stands there: {instead}")


@message("domain")
def read_hidden(text: str) -> Wording:
    return Wording(
        f"{text} is asked for at keys that the row does not see.",
        f"Say what stands there: `{text} else 0`; or fold over the keys.",
    )


@message("legality", "warning")
def fold_beside(
    function: str, binders: Sequence[str], argument: str, axes: Sequence[str]
) -> Wording:
    return Wording(
        f"`{function}` goes over {', '.join(binders)}, but {argument} is a vector over "
        f"{', '.join(axes)}: it is the same for every {binders[0]}.",
        f"Write {function}({axes[-1]}: ...) to go over what the vector has.",
    )


@message("legality", "warning")
def score_as_mask() -> Wording:
    return Wording(
        "where(c, s, 0) leaves the key visible with score 0.", "To hide it, write c in mask."
    )


def _a(kind: str) -> str:
    """The kind with its article."""
    words = {"bool": "true or false", "int": "an int", "real": "a real", "complex": "a complex"}
    return words.get(kind, kind)
