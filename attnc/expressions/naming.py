"""Names that are not taken. Both functions take the name that they give."""

from __future__ import annotations


def fresh_name(name: str, taken: set[str]) -> str:
    """The name, or the name with underscores behind it."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def numbered_name(name: str, taken: set[str]) -> str:
    """`name`, or name_2, name_3 ..."""
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    taken.add(found)
    return found
