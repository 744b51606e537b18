"""The gallery as one static page: no network, no script that must run for it to be read.

The skeleton is templates/zoo/page.html.jinja; all that is in it comes from here, escaped. The page
is well-formed XML, which a test holds it to.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator, Sequence
from html import escape

from attnc.errors import AttncError
from attnc.front import read_spec
from attnc.resources import template_environment
from attnc.source import Source
from attnc.zoo import STATES, Entry, brief
from attnc.zoo.mathml import Equation, print_equations

INK = (63, 116, 196)  # of a visible pair, on light and on dark ground; what is hidden is clear
SIDE = 64  # pixels of a picture's longer side at least, by whole multiples
SAID = {
    "verified": "oracle, kernels and mutants agree with a reference of its own",
    "oracle": "runs on the oracle and in eager torch; kernels lack something",
    "missing": "no text yet",
}
LABELS = {"visible": "mask", "state": "state", "update": "step", "repeat": "", "emit": "emit"}


def print_page(entries: Sequence[Entry]) -> str:
    """The page of these operators."""
    families = dict.fromkeys(entry.family for entry in entries)
    titles = {entry.family: entry.family_title for entry in entries}
    sections = [
        _section(family, titles[family], [e for e in entries if e.family == family])
        for family in families
    ]
    states = [state for state in STATES if any(entry.state == state for entry in entries)]
    page = {
        "options": "\n".join(
            f'<option value="{escape(family)}">{escape(titles[family])}</option>'
            for family in families
        ),
        "states": "\n".join(_state_button(state, entries) for state in states),
        "contents": "\n".join(
            f'<a href="#family-{escape(family)}">{escape(titles[family])}</a>'
            for family in families
        ),
        "sections": "\n".join(sections),
        "count": str(len(entries)),
    }
    return template_environment().get_template("zoo/page.html.jinja").render(page=page)


def _state_button(state: str, entries: Sequence[Entry]) -> str:
    count = sum(entry.state == state for entry in entries)
    return (
        f'<label title="{escape(SAID[state])}"><input type="checkbox" class="state" '
        f'value="{state}" checked="checked"/><span class="dot {state}"></span>{state}'
        f"<small>{count}</small></label>"
    )


def _section(family: str, title: str, entries: Sequence[Entry]) -> str:
    cards = "\n".join(_card(entry) for entry in entries)
    return (
        f'<section id="family-{escape(family)}"><h2>{escape(title)}</h2>\n'
        f'<div class="cards">\n{cards}\n</div></section>'
    )


def _card(entry: Entry) -> str:
    text = " ".join((entry.name, entry.title, entry.paper, *entry.features, entry.family_title))
    head = (
        f'<article class="card" id="op-{escape(entry.name)}" data-family="{escape(entry.family)}" '
        f'data-state="{entry.state}" data-text="{escape(text.lower())}">'
    )
    return "\n".join((head, *_body(entry), "</article>"))


def _body(entry: Entry) -> Iterator[str]:
    name = escape(entry.name)
    yield "<header>"
    yield f'<div><h3><a href="#op-{name}">{name}</a></h3><p class="what">{escape(entry.title)}</p>'
    if entry.paper:
        yield f'<p class="paper">{escape(entry.paper)}</p>'
    yield f'<p class="facts">{_facts(entry)}</p></div>'
    if entry.mask is not None:
        rows, keys, _ = entry.mask
        what = f"mask of {name}: {rows} rows, {keys} keys"
        yield f'<img class="mask" src="{_picture(entry.mask)}" alt="{what}" title="{what}"/>'
    yield "</header>"
    equations = equations_of(entry)
    if equations:
        yield '<div class="equations">'
        yield from (_equation(equation) for equation in equations)
        yield "</div>"
    if entry.lacks:
        words = ", ".join(f"<code>{escape(word)}</code>" for word in entry.lacks.split(", "))
        yield f'<p class="lacks">Lacks {words}</p>'
    yield from _details("text", entry.spec)
    yield from _details("derived form", entry.derived)
    if entry.public:
        words = "; ".join(_public(one) for one in entry.public)
        yield f'<p class="public">Compared with {words}</p>'
    if entry.outside_what:
        yield f'<p class="outside">Not part of it: {escape(entry.outside_what)}.</p>'
    if entry.features:
        words = " ".join(f"<code>{escape(word)}</code>" for word in entry.features)
        yield f'<p class="needs">{words}</p>'


def _public(reference: str) -> str:
    package, _, what = reference.partition(": ")
    return f"{escape(package)} <code>{escape(what)}</code>"


def _facts(entry: Entry) -> str:
    said = escape(SAID[entry.state])
    parts = [f'<span class="badge {entry.state}" title="{said}">{entry.state}</span>']
    if entry.gradient:
        word = brief(entry.gradient)
        parts.append(
            f'<span class="badge" title="{escape(entry.gradient)}">gradient {escape(word)}</span>'
        )
    parts += [f'<span class="backend">{escape(backend)}</span>' for backend in entry.backends]
    parts += [
        '<span class="ratio" title="error over that of eager PyTorch">'
        f"{escape(k)} error {v:.2f}</span>"
        for k, v in entry.ratios.items()
    ]
    return "\n".join(parts)


def _equation(equation: Equation) -> str:
    label = LABELS.get(equation.kind, "")
    where = f"{equation.block} " if equation.block else ""
    said = f'<span class="label">{escape(where + label).strip()}</span>'
    return f'<div class="equation">{said}{equation.mathml}</div>'


def _details(title: str, text: str) -> Iterator[str]:
    if text:
        yield f"<details><summary>{title}</summary><pre>{escape(text.rstrip())}</pre></details>"


def equations_of(entry: Entry) -> list[Equation]:
    """The typeset equations of an entry; none without a text that checks."""
    if not entry.spec:
        return []
    try:
        return print_equations(read_spec(Source(entry.spec, f"{entry.name}.attn"), entry.name))
    except AttncError:
        return []


def _picture(mask: tuple[int, int, str]) -> str:
    """A mask as a PNG in a data address: one bit a pixel, hidden pairs clear."""
    rows, keys, packed = mask
    bits = "".join(f"{byte:08b}" for byte in base64.b64decode(packed))
    lines = [bits[row * keys : (row + 1) * keys] for row in range(rows)]
    scale = max(1, SIDE // max(rows, keys, 1))
    raw = b""
    for line in lines:
        wide = "".join(bit * scale for bit in line)
        padded = wide + "0" * (-len(wide) % 8)
        row = bytes(int(padded[at : at + 8], 2) for at in range(0, len(padded), 8))
        raw += (b"\0" + row) * scale
    header = struct.pack(">IIBBBBB", keys * scale, rows * scale, 1, 3, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", bytes((*INK, *INK))),
            _chunk(b"tRNS", bytes((0, 255))),
            _chunk(b"IDAT", zlib.compress(raw, 9)),
            _chunk(b"IEND", b""),
        )
    )
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _chunk(kind: bytes, body: bytes) -> bytes:
    summed = kind + body
    return struct.pack(">I", len(body)) + summed + struct.pack(">I", zlib.crc32(summed))
