"""`attnc zoo`: what is stored is what the gallery has, equations are typeset for all of it, and the
page is well formed, whole in itself, and finds what it links to."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import tomllib
from click.testing import CliRunner

from attnc.cli import commands
from attnc.front import load_source, read_spec
from attnc.zoo import Entry, brief, find, print_entries, read_entries, select
from attnc.zoo.mathml import print_equations
from attnc.zoo.page import equations_of, print_page

ROOT = Path(__file__).resolve().parent.parent
SPACE = "{http://www.w3.org/1999/xhtml}"
ENTRIES = read_entries()


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """examples/zoo.py, which writes what is stored."""
    for name in ("gallery", "zoo"):
        if name in sys.modules:
            continue
        found = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
        assert found is not None and found.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules[name])
    return sys.modules["zoo"]


# --- what is stored -------------------------------------------------------------------------------


def test_the_zoo_is_the_gallery(maker: ModuleType) -> None:
    """After a change of the catalogue or a spec: make gallery, or python examples/zoo.py."""
    rows = sys.modules["gallery"].read_rows()
    assert [entry.name for entry in ENTRIES] == [row.name for row in rows]
    stale = [r.name for r, e in zip(rows, ENTRIES, strict=True) if not maker.is_current(e, r)]
    assert stale == []


@pytest.mark.parametrize("name", ["causal_softmax", "sink_window", "gated_delta", "neighborhood"])
def test_what_is_stored_is_what_is_found(name: str, maker: ModuleType) -> None:
    row = next(row for row in sys.modules["gallery"].read_rows() if row.name == name)
    assert replace(maker.entry_of(row), ratios=find(name).ratios) == find(name)


def test_public_references_are_tests() -> None:
    """Each line of references.toml has a test that loads what it names and names the operator."""
    texts = [path.read_text() for path in (ROOT / "tests").glob("test_*.py")]
    texts.remove(Path(__file__).read_text())
    lines = tomllib.loads((ROOT / "examples" / "references.toml").read_text())
    assert set(lines) <= {entry.name for entry in ENTRIES}
    for name, references in lines.items():
        for reference in references:
            what = reference.partition(": ")[2]
            found = [t for t in texts if re.search(rf"\b{what}\b", t)]
            assert any(re.search(rf"[\"/]{name}[\".]", text) for text in found), (name, reference)


def test_writing_and_reading_are_inverse() -> None:
    stored = (ROOT / "attnc" / "zoo" / "gallery.json").read_text()
    assert print_entries(ENTRIES) == stored
    assert len(stored) < 1_000_000


def test_filters() -> None:
    assert {e.family for e in select(ENTRIES, family="window")} == {"window"}
    sinks = select(ENTRIES, features=["sink_keys", "sliding_window"])
    assert "sink_window" in {entry.name for entry in sinks}
    assert all("Xiao" in entry.paper for entry in select(ENTRIES, paper="xiao"))
    assert all(entry.state == "missing" for entry in select(ENTRIES, state="missing"))
    assert [e.name for e in select(ENTRIES, words=["sinks", "DuoAttention", "window:"])] == [
        "sink_window"
    ]


def test_gradients_in_brief() -> None:
    assert brief("CPU: verified; Triton: refused: scans") == "CPU: verified; Triton: refused"
    assert brief("refused: map_stage: two rows") == "refused"
    assert brief("verified") == "verified"


# --- equations ------------------------------------------------------------------------------------


def plain(mathml: str) -> str:
    """An equation's characters in a row."""
    text = "".join(ET.fromstring(mathml).itertext())
    return re.sub("[\u2062\u2063]", "", text).replace("\u00a0", " ")


def lines_of(text: str) -> list[str]:
    return [plain(one.mathml) for one in print_equations(read_spec(load_source(text)))]


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.spec], ids=lambda entry: entry.name)
def test_every_operator_is_typeset(entry: Entry) -> None:
    equations = equations_of(entry)
    assert any(equation.kind == "result" for equation in equations)
    for equation in equations:
        tree = ET.fromstring(equation.mathml)
        for node in tree.iter():  # what MathML Core asks of these
            wanted = {"mfrac": 2, "msub": 2, "msup": 2, "munder": 2, "mtr": 2, "msubsup": 3}.get(
                node.tag
            )
            assert wanted is None or len(node) == wanted, (node.tag, equation.mathml)
            leaf = node.tag in ("mi", "mn", "mo", "mtext")
            assert leaf == (len(node) == 0 and node.tag != "mrow"), (node.tag, equation.mathml)


def test_equations_of_a_window() -> None:
    assert lines_of(find("sink_window").spec) == [
        "Vi={j:j≤i∧(i\u2212j<window\u2228j<sinks)}",
        "sij=qi·kj|d|",
        "wij=esij∑j\u2032∈Viesij\u2032",
        "oie=∑j∈Viwijvje",
    ]


def test_equations_of_a_recurrence() -> None:
    text = """
attention recall(q, k, v) for t:
    input decay: real[b, h, t]
    state S: real[d, e] = 0
    update:
        S = exp(-softplus(decay[t])) * S + outer(k[t], v[t])
    read: q[t] @ S
"""
    kinds = [one.kind for one in print_equations(read_spec(load_source(text)))]
    assert kinds == ["state", "update", "result"]
    assert lines_of(text)[1].startswith("Sde←") and lines_of(text)[2].startswith("ote=∑d")


def test_names_are_told_apart_and_escaped() -> None:
    text = """
attention both(q, k, v):
    param low_x: real = 0.0, alpha: real = 1.0
    score: where(i < j, low_x, alpha ** 2) + 1 / (1 + exp(-dot(q[i], k[j])))
    normalize: ratio(score, sum(j: score))
"""
    score, weight, _ = lines_of(text)
    assert score == "sij={lowxif i<j\u03b12otherwise+\u03c3(qi·kj)"
    assert weight == "wij=sij∑j\u2032sij\u2032"


# --- the page -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page() -> str:
    return print_page(ENTRIES)


@pytest.fixture(scope="module")
def tree(page: str) -> ET.Element:
    head, _, body = page.partition("\n")
    assert head == "<!DOCTYPE html>"
    return ET.fromstring(body)  # strict: every element closed, every attribute quoted


def test_ids_are_unique_and_links_lead_somewhere(tree: ET.Element) -> None:
    ids = Counter(node.get("id") for node in tree.iter() if node.get("id"))
    assert [name for name, count in ids.items() if count > 1] == []
    links = [node.get("href", "") for node in tree.iter(f"{SPACE}a")]
    assert links and all(link.startswith("#") and link[1:] in ids for link in links)
    assert {f"op-{entry.name}" for entry in ENTRIES} <= set(ids)
    wanted = set(re.findall(r'byId\("(\w+)"\)', "".join(tree.itertext())))
    assert wanted and wanted <= set(ids)


def test_the_page_is_whole_in_itself(page: str, tree: ET.Element) -> None:
    assert not list(tree.iter(f"{SPACE}link")) and not list(tree.iter(f"{SPACE}iframe"))
    for node in tree.iter():
        assert node.get("src", "data:").startswith("data:")
        assert not any(name.startswith("on") for name in node.attrib), "no handlers in attributes"
    style = next(node.text or "" for node in tree.iter(f"{SPACE}style"))
    assert "url(" not in style and "@import" not in style
    assert re.findall(r"https?://[^\s\"<]+", page) == ["http://www.w3.org/1999/xhtml"]
    assert len(page) < 4_000_000


def test_pictures_are_the_masks(tree: ET.Element) -> None:
    cards = {node.get("id"): node for node in tree.iter(f"{SPACE}article")}
    drawn = 0
    for entry in ENTRIES:
        images = list(cards[f"op-{entry.name}"].iter(f"{SPACE}img"))
        assert len(images) == (entry.mask is not None)
        for image in images:
            drawn += 1
            assert entry.mask is not None
            assert pixels(image.get("src", "")) == mask_rows(entry.mask)
            assert image.get("alt")
    assert drawn > 20


def mask_rows(mask: tuple[int, int, str]) -> list[str]:
    rows, keys, packed = mask
    bits = "".join(f"{byte:08b}" for byte in base64.b64decode(packed))
    return [bits[row * keys : (row + 1) * keys] for row in range(rows)]


def pixels(address: str) -> list[str]:
    """The bits of a one-bit PNG, rows of one mask row each; checks it chunk by chunk."""
    data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(
            kind + body
        )
        chunks[kind] = body
        at += 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    raw, stride = zlib.decompress(chunks[b"IDAT"]), 1 + (width + 7) // 8
    assert len(raw) == stride * height
    lines = [
        "".join(f"{b:08b}" for b in raw[n * stride + 1 : (n + 1) * stride]) for n in range(height)
    ]
    scale = max(1, 64 // max(width, height)) if max(width, height) < 64 else 1
    return [line[:width:scale] for line in lines[::scale]]


def test_cards_say_what_is_filtered(tree: ET.Element) -> None:
    cards = {node.get("id", ""): node for node in tree.iter(f"{SPACE}article")}
    for entry in ENTRIES:
        card = cards[f"op-{entry.name}"]
        assert (card.get("data-family"), card.get("data-state")) == (entry.family, entry.state)
        assert entry.name in card.get("data-text", "")
        shown = "".join(card.itertext())
        assert entry.spec.rstrip() in shown and entry.derived in shown and entry.title in shown
        assert bool(list(card.iter(f"{SPACE}math"))) == bool(entry.spec)


def test_a_browser_shows_it(page: str, tmp_path: Path) -> None:
    """Equations, pictures, the search, the families and both themes, in Chromium."""
    path = tmp_path / "zoo.html"
    path.write_text(page, encoding="utf-8")
    command = [sys.executable, str(ROOT / "tests" / "browser.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["cards"] == len(ENTRIES) and seen["console"] == []
    assert seen["equations"] == page.count("<math") and seen["flat"] == 0 and seen["fraction"]
    assert seen["pictures"] == sum(entry.mask is not None for entry in ENTRIES)
    assert seen["ratios"] == sum(len(entry.ratios) for entry in ENTRIES)
    assert seen["width"][0] <= seen["width"][1], "the page is wider than the window"
    assert seen["searched"] and seen["count"] == str(len(seen["searched"])) and seen["none"]
    texts = {node.get("id"): node.get("data-text") for node in cards_of(page)}
    wanted = [name for name, text in texts.items() if text and "xiao" in text and "sinks" in text]
    assert seen["searched"] == wanted
    assert seen["family"] == [f"op-{entry.name}" for entry in ENTRIES if entry.family == "window"]
    assert seen["themes"][0] != seen["themes"][1]


def cards_of(page: str) -> list[ET.Element]:
    return list(ET.fromstring(page.partition("\n")[2]).iter(f"{SPACE}article"))


# --- the command ----------------------------------------------------------------------------------


def zoo(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(commands, ["zoo", *arguments])
    assert done.exit_code == code, done.output
    return done.output


def test_lists_and_filters() -> None:
    lines = zoo().splitlines()
    assert {entry.name for entry in ENTRIES} <= {line.partition(" ")[0] for line in lines}
    assert lines[-1].startswith(f"{len(ENTRIES)} operators: ")
    shown = zoo("--family", "window", "--paper", "Xiao", "sinks")
    assert "sink_window" in shown and "gaussian_local" not in shown
    assert shown.splitlines()[-1].startswith("1 operators: 1 verified")
    assert "Softmax" in zoo("--families")
    assert "sink_window" in zoo("--feature", "sink_keys", "--paper", "xiao", "--state", "verified")


def test_shows_one() -> None:
    shown = zoo("show", "sink_window")
    for part in ("Xiao et al. 2023", "verified", "mask: j <= i and", "tiles: 2 spans in closed"):
        assert part in shown


def test_mistakes() -> None:
    done = CliRunner().invoke(commands, ["zoo", "show", "sink_windo"])
    assert "Did you mean `sink_window`?" in str(done.exception)
    assert "Did you mean `window`?" in zoo("--family", "windo", code=2)
    assert "Did you mean `sink_keys`?" in zoo("--feature", "sink_key", code=2)


def test_writes_the_page(tmp_path: Path) -> None:
    path = tmp_path / "zoo.html"
    assert "7 operators" in zoo("--family", "window", "--html", str(path))
    assert ET.fromstring(path.read_text().partition("\n")[2]).tag == f"{SPACE}html"
