"""What the checker says about names, axes, blocks and calls; messages about values stand in
value_messages.py and are found here too.

Each function words one message: its name is the code in the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attnc.check.value_messages import *  # noqa: F403
from attnc.errors import Wording, closest, did_you_mean, message


def _listed(names: Sequence[str], none: str = "none") -> str:
    """Names in backticks, at most eight of them."""
    shown = [f"`{name}`" for name in names[:8]]
    if len(names) > 8:
        shown.append("...")
    return ", ".join(shown) or none


def _hint(name: str, known: Sequence[str], otherwise: str = "") -> str:
    return did_you_mean(name, known) or otherwise


# ---------------------------------------------------------------------------------------- names


@message("name")
def unknown_name(name: str, known: Sequence[str], places: Mapping[str, str]) -> Wording:
    near = closest(name, known)
    place = f" ({places[near]})" if near in places else ""
    declare = "Declare it: `input name: real[...]`, `param name: int`, or an equation."
    return Wording(
        f"`{name}` is not known here.", f"Did you mean `{near}`{place}?" if near else declare
    )


@message("name")
def unknown_function(name: str, known: Sequence[str]) -> Wording:
    otherwise = "Write it as a def, or import it: `from grid import near`."
    return Wording(f"there is no function `{name}`.", _hint(name, known, otherwise))


@message("name")
def function_as_value(name: str) -> Wording:
    return Wording(
        f"`{name}` is a function, not a value.", f"Call it: {name}(x), or {name}(j: x) if it folds."
    )


@message("name")
def defined_twice(name: str, line: int) -> Wording:
    return Wording(
        f"`{name}` is defined twice, first in line {line}.",
        "A name has one definition. Only binders may use a name again.",
    )


@message("name")
def reserved_name(name: str) -> Wording:
    return Wording(
        f"`{name}` has a meaning of its own and cannot be defined.", "Take another name."
    )


@message("name")
def bound_twice(name: str) -> Wording:
    return Wording(f"`{name}` is bound twice here.", "A second index of its axis: `l in j`.")


@message("name")
def unknown_module(name: str, known: Sequence[str]) -> Wording:
    otherwise = "Modules are files of the library, or beside this file."
    return Wording(f"there is no file `{name}.attn`.", _hint(name, known, otherwise))


@message("name")
def not_in_module(name: str, module: str, known: Sequence[str]) -> Wording:
    otherwise = f"It has {_listed(known, 'nothing')}."
    return Wording(f"`{module}` has no `{name}`.", _hint(name, known, otherwise))


@message("name")
def import_cycle(name: str) -> Wording:
    return Wording(f"`{name}` imports itself, over whatever files.", "Move what both need apart.")


@message("name")
def no_operator() -> Wording:
    return Wording("this file has no operator.", "An operator begins `attention name(q, k, v):`.")


@message("name")
def no_such_operator(name: str, known: Sequence[str]) -> Wording:
    return Wording(
        f"this file has no operator `{name}`.", _hint(name, known, f"It has {_listed(known)}.")
    )


@message("name")
def unknown_static(name: str, known: Sequence[str]) -> Wording:
    otherwise = f"It has {_listed(known, 'no statics')}."
    return Wording(f"the operator has no static `{name}`.", _hint(name, known, otherwise))


@message("name")
def unknown_emit(name: str, block: str, known: Sequence[str]) -> Wording:
    otherwise = f"It has {_listed(known, 'no emits')}."
    return Wording(f"`{block}` emits no `{name}`.", _hint(name, known, otherwise))


@message("name", "warning")
def unused(what: str, name: str) -> Wording:
    return Wording(f"nothing reads the {what} `{name}`.", "Take it out, or read it.")


@message("name")
def argument_not_declared(name: str) -> Wording:
    return Wording(
        f"`{name}` stands in the header and is no declared input.",
        f"Say what it is: `input {name}: real[b, h, i, d]`. Only q, k and v need no line.",
    )


@message("name")
def argument_not_input(name: str) -> Wording:
    return Wording(
        f"`{name}` stands in the header and is no input.",
        "Names in the header's parentheses are tensors; numbers are keywords.",
    )


@message("name")
def local_outside(name: str) -> Wording:
    return Wording(
        f"`{name}` is a local of the step: only update, read and emit see it.",
        "Write the equation in the body, or make it a state.",
    )


@message("name")
def local_too_early(name: str) -> Wording:
    return Wording(
        f"`{name}` is read before the line of `update` that assigns it.",
        "Lines of update run in text order: move the line up, or make it a state.",
    )


# ----------------------------------------------------------------------------------------- axes


@message("axis")
def unknown_axis(name: str, known: Sequence[str], in_def: bool) -> Wording:
    otherwise = "Axes come from inputs' dimensions, the header, or a line `axis c < n`."
    if in_def:
        otherwise = "A def folds over its own indices: write them before its colon."
    return Wording(f"there is no axis `{name}` here.", _hint(name, known, otherwise))


@message("axis")
def axis_twice(name: str) -> Wording:
    return Wording(f"the axis `{name}` is declared twice.", "An axis has one declaration.")


@message("axis")
def no_such_axis(name: str, array: str, axes: Sequence[str]) -> Wording:
    otherwise = f"Its axes are {_listed(axes)}."
    return Wording(f"`{array}` has no axis `{name}`.", _hint(name, axes, otherwise))


@message("axis")
def outer_axis_in_brackets(array: str, name: str) -> Wording:
    return Wording(
        f"`{array}`[{name}, ...]: {name} is filled by name, not by position.",
        f"Leave it out: another entry is {array}[{name} = g, ...].",
    )


@message("axis")
def too_many_subscripts(array: str, count: int, inner: int) -> Wording:
    return Wording(
        f"`{array}` has {inner} axes that brackets fill, here are {count} subscripts.",
        "Outer axes (b, h, hk) are filled by name.",
    )


@message("axis")
def not_an_array(name: str) -> Wording:
    return Wording(f"`{name}` is a number here: it has no axis to subscript.", "Drop the brackets.")


@message("axis")
def head_of_group(fine: str, coarse: str) -> Wording:
    return Wording(
        f"this reads `{fine}`, but only its group `{coarse}` is bound here.",
        f"Fold over its members: sum({fine} of {coarse}: ...).",
    )


@message("axis")
def not_coarse(name: str, fine: str) -> Wording:
    return Wording(
        f"`{name}` is no coarse axis of `{fine}`.",
        f"`h of hk` runs over the heads of a group; declare one: axis {name} of {fine}.",
    )


@message("axis")
def no_coordinates(name: str, axis: str) -> Wording:
    return Wording(
        f"`{name}` has no coordinates: `{axis}` is no product axis.",
        f"Declare one: axis {name} = (y < height, x < width).",
    )


@message("axis")
def no_such_coordinate(name: str, index: str, known: Sequence[str]) -> Wording:
    otherwise = f"Its coordinates are {_listed(known)}."
    return Wording(f"`{index}` has no coordinate `{name}`.", _hint(name, known, otherwise))


@message("axis")
def coordinate_without_length(name: str) -> Wording:
    return Wording(f"the coordinate `{name}` needs a length.", f"Write `{name} < n`.")


@message("axis")
def member_of_what(base: str, name: str) -> Wording:
    return Wording(
        f"`{base}.{name}`: `{base}` is neither an index with coordinates nor a block.",
        "`i.y` is a coordinate of an index, `block.lse` an emit of a block.",
    )


@message("axis")
def free_index(name: str, place: str, key: bool) -> Wording:
    where = place or "this place"
    if key:
        return Wording(
            f"`{name}` is free in {where}: a row has no single key.",
            f"Fold over it, as in sum({name}: weight * v[{name}]).",
        )
    return Wording(
        f"`{name}` is free in {where}: nothing binds it.",
        f"Bind it on the left side, as in x[{name}] = ..., or fold over it: sum({name}: ...).",
    )


@message("axis")
def length_of_what(text: str, known: Sequence[str]) -> Wording:
    return Wording(f"`{text}` is no axis: it has no length.", _hint(text, known, "len(j), len(d)."))


@message("axis")
def length_not_whole(text: str) -> Wording:
    return Wording(f"`{text}` bounds an axis and is no whole number.", "Use `//`, or floor(...).")


@message("axis")
def length_depends(name: str) -> Wording:
    return Wording(
        f"the length of `{name}` depends on an index: a fold needs an axis of its own.",
        "Fold over a whole axis under a condition: sum(s in t if s < t: ...).",
    )


@message("axis")
def left_side_differs(name: str) -> Wording:
    return Wording(
        f"the left side of `{name}` does not have its axes.",
        "All its equations have the same ones.",
    )


@message("axis")
def group_subscript(name: str) -> Wording:
    return Wording(
        f"`{name}` stands for several indices here: one number is no place among them.",
        f"Bind a second index: sum(l in {name}: s[l]).",
    )


@message("axis")
def union_unbound(name: str) -> Wording:
    return Wording(
        f"`{name}` runs over several sources and none of their indices is bound here.",
        "Fold over it, or bind one of them on the left side.",
    )


@message("axis")
def which_source(kind: str, keys: Sequence[str]) -> Wording:
    return Wording(
        f"`{kind}` belongs to one source of keys and none is bound here.",
        f"Fold over one: sum({keys[0] if keys else 'j'}: {kind} * ...).",
    )


@message("axis")
def scale_without_width() -> Wording:
    return Wording(
        "`scale` is 1 / sqrt(len(d)), and there is no axis `d` here.", "Write the number itself."
    )


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
        f"{kind}[{names}]: no source of keys has this index.", f"Sources are {_listed(known)}."
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
    otherwise = f"It has {_listed(known, 'no keywords')}."
    return Wording(f"`{function}` has no parameter `{name}`.", _hint(name, known, otherwise))


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
        f"`{function}` folds over {_listed(names)}, and no index is bound.",
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
        f"`{function}` folds over {len(names)} indices: {_listed(names)}.", "Bind one for each."
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
        f"`{name}` has the inner axes {_listed(wanted)}, the argument {_listed(came)}.",
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
