"""What the checker says about blocks, calls and limits."""

from __future__ import annotations

from collections.abc import Sequence

from attnc.check.wording import hint_for, listed
from attnc.errors import Wording, message

# --------------------------------------------------------------------------------------- blocks


@message("legality")
def equation_cycle(names: Sequence[str]) -> Wording:
    return Wording(
        f"`{names[-1]}` depends on itself: {' -> '.join(names)}.",
        "Equations have an order; what goes on from row to row is a state.",
    )


@message("legality")
def mask_of_itself(name: str, row: str) -> Wording:
    if name == "mask":
        return Wording(
            f"mask folds over the visible keys of row {row}, which it is to say itself.",
            "Move the fold to a body around this one.",
        )
    return Wording(
        f"`{name}` folds over the visible keys of row {row}, and mask uses `{name}`.",
        f"Move `{name}` to a body around this one.",
    )


@message("legality")
def clause_twice(kind: str, line: int) -> Wording:
    return Wording(f"{kind} is said twice, first in line {line}.", "With several sources: mask[m].")


@message("legality")
def clause_without_keys(kind: str) -> Wording:
    return Wording(f"{kind} is about keys, and this body has none.", "Name them: `for i over j`.")


@message("axis")
def clause_of_no_source(kind: str, names: str, known: Sequence[str]) -> Wording:
    return Wording(
        f"{kind}[{names}]: no source of keys has this index.", f"Sources are {listed(known)}."
    )


@message("legality")
def no_score(name: str) -> Wording:
    return Wording(
        f"`{name}` reads `score` and has none.", "Write it: score: dot(q[i], k[j]) * scale."
    )


@message("legality")
def no_read(kind: str, sources: int) -> Wording:
    return Wording(
        "there is no read, and no sum(j: weight * v[j]) to stand for it.",
        "Say what comes out: read: ...",
    )


@message("legality")
def update_twice(line: int) -> Wording:
    return Wording(f"there are two updates, the first in line {line}.", "Join their lines.")


@message("legality")
def update_without_state() -> Wording:
    return Wording("update without a state.", "Declare what is carried: state S: real[d, e] = 0.")


@message("legality")
def state_without_rows() -> Wording:
    return Wording("a state is carried from row to row, and there are no rows.", "Write `for t`.")


@message("legality")
def state_without_value(name: str) -> Wording:
    return Wording(f"the state `{name}` begins with nothing.", f"state {name}: real[...] = 0")


@message("legality")
def assigned_in_update(name: str, what: str) -> Wording:
    return Wording(
        f"update assigns `{name}`, which is no state but an {what}.",
        "Only states and locals of the step are assigned there.",
    )


@message("axis")
def first_value_axes(name: str, axes: str, what: str) -> Wording:
    return Wording(
        f"the state `{name}` is over {axes}; its first value is {what}.",
        "A state begins as a number, or as an array over its own axes or some of them.",
    )


@message("axis")
def update_axes(name: str, axes: str, what: str) -> Wording:
    return Wording(
        f"the state `{name}` is over {axes}; its update gives {what}.",
        f"A step closes when `{name}` comes out over its own axes: fold the others, as in x @ y, "
        "or join those that are missing, as in outer(x, y).",
    )


@message("legality")
def update_of_later_row(text: str, row: str) -> Wording:
    return Wording(
        f"{text} reads what comes after row `{row}`: a state is made of the rows so far.",
        f"Read {row} and those before; to walk the rows in another order, read them by an array of "
        f"places, as in x[order[{row}]].",
    )


@message("axis")
def state_of_group(name: str, index: str, groups: Sequence[str]) -> Wording:
    group = groups[0] if groups else "hk"
    return Wording(
        f"the state `{name}` steps once for all of its group, and this reads `{index}`.",
        f"Fold over the members: sum({index} of {group}: ...), or give `{name}` the axis {index}.",
    )


@message("legality")
def not_in_step(where: str) -> Wording:
    return Wording(
        f"this cannot stand in {where}.", "Only equations can (in a def: solve, repeat)."
    )


@message("legality")
def repeat_in_repeat() -> Wording:
    return Wording("a repeat cannot stand in another.", "Fold the inner one, or use one count.")


@message("legality")
def repeat_count() -> Wording:
    return Wording("a repeat counts from 0.", "repeat r < n:")


@message("limit")
def repeat_too_long(name: str, rounds: int, most: int) -> Wording:
    return Wording(
        f"`repeat {name}` is to run {rounds} rounds; a repeat has {most} at most.",
        f"Fewer rounds: repeat {name} < {most}. What goes on along the tokens is a state: "
        "state s: real = 0, and its step under update.",
    )


@message("legality")
def repeat_without_start(name: str) -> Wording:
    return Wording(f"`{name}` has no value before the repeat.", f"Write one above: {name}[i] = 0.")


@message("legality", "warning")
def attention_without_clause(name: str) -> Wording:
    return Wording(f"attention `{name}` has no clause.", "A body without clauses is a pipeline.")


@message("legality", "warning")
def pipeline_with_clause(name: str, clause: str) -> Wording:
    return Wording(f"pipeline `{name}` has a clause {clause}.", "With clauses it is an attention.")


# ---------------------------------------------------------------------------------------- calls


@message("legality")
def recursion(chain: Sequence[str]) -> Wording:
    return Wording(
        f"`{chain[0]}` calls itself: {' -> '.join(chain)}.", "Defs are expanded: use repeat."
    )


@message("legality")
def operator_cycle(names: Sequence[str]) -> Wording:
    return Wording(f"an operator calls itself: {' -> '.join(names)}.", "Operators are expanded.")


@message("legality")
def unknown_keyword(name: str, function: str, known: Sequence[str]) -> Wording:
    otherwise = f"It has {listed(known, 'no keywords')}."
    return Wording(f"`{function}` has no parameter `{name}`.", hint_for(name, known, otherwise))


@message("legality")
def given_twice(name: str) -> Wording:
    return Wording(f"`{name}` is given twice.", "Once by position is enough.")


@message("legality")
def too_many_arguments(function: str, count: int) -> Wording:
    return Wording(f"`{function}` takes at most {count} by position; more came.")


@message("legality")
def argument_missing(name: str, function: str) -> Wording:
    return Wording(f"`{function}` needs `{name}`.", f"Give it by position, or as {name} = ...")


@message("legality")
def argument_count(function: str, wanted: str, count: int) -> Wording:
    noun = "argument" if wanted == "1" else "arguments"
    return Wording(f"`{function}` takes {wanted} {noun}; {count} came.")


@message("legality")
def binders_missing(function: str, names: Sequence[str]) -> Wording:
    inside = ", ".join(names)
    return Wording(
        f"`{function}` folds over {listed(names)}, and no index is bound.",
        f"Say over which axis: {function}({inside}: ...).",
    )


@message("legality")
def binders_unwanted(function: str) -> Wording:
    return Wording(
        f"`{function}` folds over nothing.", f"Call it without a colon: {function}(...)."
    )


@message("legality")
def binder_count(function: str, names: Sequence[str]) -> Wording:
    return Wording(
        f"`{function}` folds over {len(names)} indices: {listed(names)}.", "Bind one for each."
    )


@message("legality")
def not_a_fold(function: str) -> Wording:
    return Wording(f"`{function}` is no fold.", f"Call it without a colon: {function}(...).")


@message("legality")
def fold_arguments(function: str, wanted: int, count: int) -> Wording:
    form = f"{function}(j: x, n)" if wanted == 2 else f"{function}(j: x)"
    return Wording(f"`{function}` folds {wanted} expressions, here are {count}.", f"Write {form}.")


@message("legality")
def operator_in_expression(name: str) -> Wording:
    return Wording(
        f"the operator `{name}` is called inside an expression.",
        f"Give its result a name: context = {name}(...).",
    )


@message("legality")
def call_with_indices(name: str, operator: str) -> Wording:
    return Wording(
        f"`{name}` is what `{operator}` gives: its indices are that operator's.",
        f"Write {name} = {operator}(...), and read {name}[i].",
    )


@message("legality")
def arguments_of_block(name: str) -> Wording:
    return Wording(f"the block `{name}` takes no arguments.", "It sees the names around it.")


@message("axis")
def argument_axes(name: str, wanted: Sequence[str], came: Sequence[str]) -> Wording:
    return Wording(
        f"`{name}` has the inner axes {listed(wanted)}, the argument {listed(came)}.",
        "Inner axes are matched from the left, outer ones by name.",
    )


@message("axis")
def argument_axis(name: str, label: str, came: str, known: str) -> Wording:
    return Wording(f"`{name}` brings `{came}` for the axis `{label}`, which is `{known}` already.")


@message("limit")
def expression_too_deep(limit: int) -> Wording:
    return Wording(
        f"this is nested more than {limit} deep, defs expanded.", "Give parts of it names."
    )


@message("limit")
def expression_too_large(limit: str) -> Wording:
    return Wording(f"this text expands to more than {limit}.", "Give parts of it names.")


@message("limit")
def expansion_too_deep(limit: int) -> Wording:
    return Wording(f"defs call one another more than {limit} deep.", "Write the formula itself.")
