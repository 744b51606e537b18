"""Defs and operators by name: those of a file, of what it imports, and of the core library."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from attnc import syntax
from attnc.check import messages as m
from attnc.errors import Diagnostic, SpecError
from attnc.parser import parse
from attnc.resources import library_names, read_library
from attnc.source import Source

CORE = "core"
MAX_IMPORTS = 32  # files inside one another


@cache
def parse_library(name: str) -> syntax.File:
    """A file of the standard library, read and parsed once a process."""
    return parse(Source(read_library(name), f"std/{name}.attn"))


@dataclass(eq=False)
class Library:
    """What a file's texts may call.

    defs, operators   by name; a file's own come before imported ones, those before the core's
    broken            names whose import failed: nothing more is said about them
    homes             the library of the file in which a def or operator stands
    """

    defs: dict[str, syntax.Def] = field(default_factory=dict)
    operators: dict[str, syntax.Operator] = field(default_factory=dict)
    homes: dict[syntax.Node, Library] = field(default_factory=dict)
    imported: dict[str, syntax.Name] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def names(self) -> list[str]:
        return [*self.defs, *self.operators]

    def home(self, node: syntax.Node) -> Library:
        return self.homes.get(node, self)


@dataclass(eq=False)
class Loader:
    """Reads files that are imported, each once."""

    search: tuple[Path, ...]
    diagnostics: list[Diagnostic] = field(default_factory=list)
    files: dict[str, Library | None] = field(default_factory=dict)
    core: Library | None = None

    def load(self, file: syntax.File, depth: int = 0, core: bool = False) -> Library:
        """The library of a parsed file, with what it imports."""
        library = Library()
        if not core:
            known = self._core()
            library.defs.update(known.defs)
            library.homes.update(known.homes)
        for each in file.imports:
            self._import(library, each, depth)
        self._own(library, file)
        return library

    def _core(self) -> Library:
        if self.core is None:
            self.core = self.load(parse_library(CORE), core=True)
        return self.core

    def _own(self, library: Library, file: syntax.File) -> None:
        seen: dict[str, syntax.Node] = {}
        nodes: Iterable[syntax.Def | syntax.Operator] = (*file.defs, *file.operators)
        for node in sorted(nodes, key=lambda each: each.span.start):
            name = node.name.name
            if name in seen:
                self.diagnostics.append(m.defined_twice(node.name.span, name, seen[name].span.line))
                continue
            if name in library.imported:
                line = library.imported[name].span.line
                self.diagnostics.append(m.defined_twice(node.name.span, name, line))
            seen[name] = node
            library.homes[node] = library
            if isinstance(node, syntax.Def):
                library.defs[name] = node
            else:
                library.operators[name] = node

    def _import(self, library: Library, each: syntax.Import, depth: int) -> None:
        found = self._module(each, depth)
        if found is None:
            library.broken |= {name.name for name in each.names}
            return
        for name in each.names:
            known = found.defs.get(name.name) or found.operators.get(name.name)
            if known is None:
                self.diagnostics.append(
                    m.not_in_module(name.span, name.name, each.module.name, found.names())
                )
                library.broken.add(name.name)
                continue
            library.homes[known] = found.home(known)
            library.imported[name.name] = name
            if isinstance(known, syntax.Def):
                library.defs[name.name] = known
            else:
                library.operators[name.name] = known

    def _module(self, each: syntax.Import, depth: int) -> Library | None:
        name = each.module.name
        if depth >= MAX_IMPORTS:
            self.diagnostics.append(m.import_cycle(each.module.span, name))
            return None
        if name in self.files:
            if self.files[name] is None:
                self.diagnostics.append(m.import_cycle(each.module.span, name))
            return self.files[name]
        source = None if name in library_names() else self._read(name)
        if source is None and name not in library_names():
            self.diagnostics.append(m.unknown_module(each.module.span, name, self._modules()))
            return None
        self.files[name] = None
        try:
            file = parse_library(name) if source is None else parse(source)
            library = self.load(file, depth + 1)
        except SpecError as error:
            self.diagnostics.extend(error.diagnostics)
            library = Library()
        self.files[name] = library
        return library

    def _read(self, name: str) -> Source | None:
        """A file beside the importing one, which the standard library does not have."""
        for folder in self.search:
            path = folder / f"{name}.attn"
            try:
                return Source(path.read_text(encoding="utf-8"), str(path))
            except (OSError, UnicodeDecodeError):
                continue
        return None

    def _modules(self) -> list[str]:
        beside = [path.stem for folder in self.search for path in sorted(folder.glob("*.attn"))]
        return [*library_names(), *beside[:200]]
