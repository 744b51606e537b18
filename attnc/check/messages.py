"""What the checker says about names and axes; messages about blocks and calls stand in
block_messages.py, those about values in value_messages.py, and all are found here.

Each function words one message: its name is the code in the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attnc.check.block_messages import *  # noqa: F403
from attnc.check.value_messages import *  # noqa: F403
from attnc.check.wording import hint_for, listed
from attnc.errors import Wording, closest, message

# ---------------------------------------------------------------------------------------- names


@message("name")
def unknown_name(name: str, known: Sequence[str], places: Mapping[str, str]) -> Wording:
    near = closest(name, known)
    place = f" ({places[near]})" if near in places else ""
    declare = f"Declare it: `param {name}: int`, `input {name}: real[...]`, or an equation."
    return Wording(
        f"`{name}` is not known here.", f"Did you mean `{near}`{place}?" if near else declare
    )


@message("name")
def unknown_function(name: str, known: Sequence[str], file: str = "") -> Wording:
    """`file`: the library's that has it."""
    told = f"there is no function `{name}`."
    if file:
        return Wording(told, f"The library has one: write `from {file} import {name}` on top.")
    otherwise = "Write it as a def, or import it: `from grid import near`."
    return Wording(told, hint_for(name, known, otherwise))


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


@message("axis")
def number_as_axis(name: str, what: str, line: int) -> Wording:
    return Wording(
        f"`{name}` is a {what} (line {line}); here stand the names of axes.",
        f"Introduce an axis of that length, `c < {name}`, or take another name.",
    )


@message("name")
def bound_twice(name: str) -> Wording:
    return Wording(f"`{name}` is bound twice here.", "A second index of its axis: `l in j`.")


@message("name")
def unknown_module(name: str, known: Sequence[str]) -> Wording:
    otherwise = "Modules are files of the library, or beside this file."
    return Wording(f"there is no file `{name}.attn`.", hint_for(name, known, otherwise))


@message("name")
def not_in_module(name: str, module: str, known: Sequence[str]) -> Wording:
    otherwise = f"It has {listed(known, 'nothing')}."
    return Wording(f"`{module}` has no `{name}`.", hint_for(name, known, otherwise))


@message("name")
def import_cycle(name: str) -> Wording:
    return Wording(f"`{name}` imports itself, over whatever files.", "Move what both need apart.")


@message("name")
def no_operator() -> Wording:
    return Wording("this file has no operator.", "An operator begins `attention name(q, k, v):`.")


@message("name")
def no_such_operator(name: str, known: Sequence[str]) -> Wording:
    return Wording(
        f"this file has no operator `{name}`.", hint_for(name, known, f"It has {listed(known)}.")
    )


@message("name")
def unknown_static(name: str, known: Sequence[str], param: bool) -> Wording:
    otherwise = f"It has {listed(known, 'no statics')}."
    if param:
        otherwise = f"`{name}` is a param: give it to the call, or declare it static."
        known = ()
    return Wording(f"the operator has no static `{name}`.", hint_for(name, known, otherwise))


@message("name")
def unknown_emit(name: str, block: str, known: Sequence[str]) -> Wording:
    otherwise = f"It has {listed(known, 'no emits')}."
    return Wording(f"`{block}` emits no `{name}`.", hint_for(name, known, otherwise))


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
    return Wording(f"there is no axis `{name}` here.", hint_for(name, known, otherwise))


@message("axis")
def axis_twice(name: str) -> Wording:
    return Wording(f"the axis `{name}` is declared twice.", "An axis has one declaration.")


@message("axis")
def unmeasured_axis(name: str) -> Wording:
    return Wording(
        f"no input has the axis `{name}`: nothing says how long it is.",
        f"Declare one over it, `input x: real[b, {name}, c]`, or its length: `axis {name} < 8`.",
    )


@message("axis")
def no_such_axis(name: str, array: str, axes: Sequence[str]) -> Wording:
    otherwise = f"Its axes are {listed(axes)}."
    hint = hint_for(name, axes, otherwise)
    if name == "h" and "hk" in axes:
        hint = f"Its heads are `hk`, each for len(h) // len(hk) query heads: {array}[hk = 0, ...]."
    return Wording(f"`{array}` has no axis `{name}`.", hint)


@message("axis")
def outer_axis_in_brackets(array: str, name: str) -> Wording:
    return Wording(
        f"`{array}`[{name}, ...]: {name} is filled by name, not by position.",
        f"Leave it out: another entry is {array}[{name} = 0, ...].",
    )


@message("axis")
def too_many_subscripts(
    array: str, count: int, inner: Sequence[str], outer: Sequence[str], extra: Sequence[str]
) -> Wording:
    """inner, outer: axes that brackets fill, and that names do; extra: outer axes written."""
    fill = f"`{array}` has {listed(inner, 'no axes')} for brackets to fill"
    here = f"{count} subscript{'s' if count > 1 else ''}"
    if extra:
        wider = ", ".join((*extra, *inner))
        hint = f"Drop {listed(extra)}, or declare `{array}` so: `real[{wider}]`."
    else:
        named = f"; {listed(outer)} {'is' if len(outer) == 1 else 'are'} filled by name"
        hint = f"Declare it over more axes, or write fewer subscripts{named if outer else ''}."
    return Wording(f"{fill}, here {'are' if count > 1 else 'is'} {here}.", hint)


@message("axis")
def not_an_array(name: str, coordinates: Sequence[str] = ()) -> Wording:
    """coordinates: of a grid's index."""
    dotted = listed([f"{name}.{each}" for each in coordinates])
    hint = f"Its coordinates are {dotted}." if coordinates else "Drop the brackets."
    return Wording(f"`{name}` is a number here: it has no axis to subscript.", hint)


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
    otherwise = f"Its coordinates are {listed(known)}."
    return Wording(f"`{index}` has no coordinate `{name}`.", hint_for(name, known, otherwise))


@message("axis")
def coordinate_without_length(name: str) -> Wording:
    return Wording(f"the coordinate `{name}` needs a length.", f"Write `{name} < n`.")


@message("axis")
def member_of_what(base: str, name: str) -> Wording:
    return Wording(
        f"`{base}.{name}`: `{base}` is neither an index with coordinates nor a block.",
        "`@` sums over what both sides have; nothing is transposed."
        if name == "T"
        else "`i.y` is a coordinate of an index, `block.lse` an emit of a block.",
    )


@message("axis")
def free_index(name: str, place: str, key: bool, clause: str = "") -> Wording:
    """clause: the clause of another source that reads the key."""
    where = place or "this place"
    if clause:
        return Wording(
            f"`{name}` is free in {where}, which speaks of every source of keys.",
            f"Say of which source it speaks: `{clause}[{name}]: ...`.",
        )
    if key:
        return Wording(
            f"`{name}` is free in {where}: a row has no single key.",
            f"Fold over it, as in sum({name}: weight * v[{name}]).",
        )
    if place.startswith("state "):
        return Wording(
            f"`{name}` is free in {where}, which begins before the first row.",
            f"Its first value is a number, or an input without {name}; rows come in by update.",
        )
    return Wording(
        f"`{name}` is free in {where}: nothing binds it.",
        f"Bind it on the left side, as in x[{name}] = ..., or fold over it: sum({name}: ...); its "
        f"length is len({name}).",
    )


@message("axis")
def length_of_what(text: str, known: Sequence[str]) -> Wording:
    return Wording(f"`{text}` is no axis: it has no length.", hint_for(text, known, "len(j)"))


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
