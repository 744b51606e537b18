"""Prints folds, selections, solves, random numbers and slopes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attnc.backends.eager.printer import Printer, Text

from attnc.expressions.index import Index
from attnc.expressions.tree import TRUE, Expr

FOLDS = {"sum": "total", "prod": "product", "max": "largest", "min": "smallest"}


class FoldPrinter(Printer):
    """A printer of whole expressions."""

    def _print_fold(self, node: Expr, args: list[Text]) -> Text:
        condition, factors = args[0], args[1:]
        always = node.args[0] == TRUE
        scales = [factor for factor in factors if not factor.dims]
        arrays = [factor for factor in factors if factor.dims]
        missing = set(node.bound) - {index for each in arrays for index in each.dims}
        if len(arrays) > 1 and not missing and (always or condition.dims):
            text = self._contracted(node, condition, arrays, always)
            for scale in scales:
                text = Text(f"{text.atom} * {scale.atom}", text.dims, True)
            return text
        dims = self.union(*factors)
        body = self._fitted(factors[0], dims)
        for factor in factors[1:]:
            body = Text(f"{body.atom} * {self._fitted(factor, dims).atom}", dims, True)
        return self._folded(node, condition, Text(body.code, dims, body.loose), always)

    def _folded(self, node: Expr, condition: Text, body: Text, always: bool) -> Text:
        if not body.dims and node.kind in ("real", "complex"):
            body = Text(f"constant({body.code}, wide, {self.like})")
        whole = self.sorted((*body.dims, *condition.dims, *node.bound))
        if set(node.bound) - {*body.dims} or not body.dims:
            body = Text(self.spread(body, whole), whole)
        dim = tuple(place for place, index in enumerate(whole) if index in node.bound)
        code = f"{FOLDS[node.monoid]}({self.fit(body, whole)}, {dim}"
        code += ")" if always else f", where={self.fit(condition, whole)})"
        rest = tuple(index for index in whole if index not in node.bound)
        return Text(code, rest)

    def _contracted(self, node: Expr, condition: Text, arrays: list[Text], always: bool) -> Text:
        present = self.union(*arrays, condition)
        rest = tuple(index for index in present if index not in node.bound)
        letters = _letters(present)

        def word(dims: Iterable[Index]) -> str:
            return "".join(letters[index] for index in dims)

        equation = f"{','.join(word(each.dims) for each in arrays)}->{word(rest)}"
        code = f'contract("{equation}", {", ".join(each.code for each in arrays)}'
        if not always:
            code += f', where=("{word(condition.dims)}", {condition.code})'
        return Text(f"{code}, dtype={self._product_type(condition, arrays)})", rest)

    def _product_type(self, condition: Text, arrays: Sequence[Text]) -> str:
        """The type that the factors of a sum of products are multiplied in."""
        return self.product_type

    def _print_topk(self, node: Expr, args: list[Text]) -> Text:
        count = args[2]
        whole, rest, dim, where = self._selection(node, args, count)
        limit = self.fit(count, rest)
        if count.dims:
            limit = f"{Text(limit, (), count.loose).atom}[..., None]"
        key = self.spread(args[1], whole)
        code = f"among_largest({key}, {limit}, {dim}{where})"
        return self.looked_up(code, (*rest, *node.bound), *self._asked(node, args, rest, 3))

    def _print_rank(self, node: Expr, args: list[Text]) -> Text:
        whole, rest, dim, where = self._selection(node, args)
        code = f"ranked({self.spread(args[1], whole)}, {dim}{where})"
        return self.looked_up(code, (*rest, *node.bound), *self._asked(node, args, rest, 2))

    def _asked(
        self, node: Expr, args: list[Text], rest: tuple[Index, ...], first: int
    ) -> tuple[list[Expr], list[Text]]:
        """Positions at which a selection is asked: the outer ones at themselves."""
        own = [Expr("index", (), index, "int") for index in rest]
        return [*own, *node.args[first:]], [
            *(self._print_index(each, []) for each in own),
            *args[first:],
        ]

    def _print_argmax(self, node: Expr, args: list[Text]) -> Text:
        whole, rest, dim, where = self._selection(node, args)
        first = self.starts.get(node.bound[0].axis.name, "0")
        descending = node.op == "argmax"
        key = self.spread(args[1], whole)
        return Text(f"first_extreme({key}, {dim}, {descending}, {first}{where})", rest)

    _print_argmin = _print_argmax

    def _selection(
        self, node: Expr, args: list[Text], *others: Text
    ) -> tuple[tuple[Index, ...], tuple[Index, ...], tuple[int, ...], str]:
        """All dimensions, those that stay, the places of the bound ones, and the condition."""
        whole = self.sorted((*self.union(args[0], args[1], *others), *node.bound))
        rest = tuple(index for index in whole if index not in node.bound)
        dim = tuple(whole.index(index) for index in node.bound)
        always = node.args[0] == TRUE
        return whole, rest, dim, "" if always else f", where={self.fit(args[0], whole)}"

    # --- the rest -----------------------------------------------------------------------------

    def _print_solve(self, node: Expr, args: list[Text]) -> Text:
        name = str(node.attr)
        low, high = args
        dims = self.sorted((*low.dims, *high.dims, *(node.free - set(self.fixed))))
        unknown = self.names.fresh(name)
        function = self.names.fresh(f"sides_of_{name}")
        self.line(f"def {function}({unknown}):")
        self.depth += 1
        self.unknowns[name] = Text(unknown, dims)
        self.scopes.append({})
        sides = [self._printed(side) for side in node.args[2:]]
        self.line(f"return {', '.join(self.fit(side, dims) for side in sides)}")
        self.scopes.pop()
        self.depth -= 1
        ends = [f"as_real({self.spread(end, dims)})" if dims else end.code for end in (low, high)]
        return Text(f"root({ends[0]}, {ends[1]}, {function}, {name!r})", dims)

    def _print_random(self, node: Expr, args: list[Text]) -> Text:
        dims = self.union(*args)
        at = ", ".join(self.fit(arg, dims) for arg in args)
        return Text(f"random(seed, {int(node.attr)}, {at}, {self.like})", dims)  # type: ignore[arg-type]

    def _print_grad(self, node: Expr, args: list[Text]) -> Text:
        """A function of the state, in which the number is computed anew, and its slope."""
        name = node.array.name
        outside, scopes = self.arrays[name], self.scopes
        self.arrays[name] = self.names.fresh(name)
        function = self.names.fresh("differentiated")
        self.line(f"def {function}({self.arrays[name]}):")
        self.depth += 1
        self.scopes = [{}]
        self.line(f"return {self._printed(node.args[0]).code}")
        self.scopes = scopes
        self.depth -= 1
        self.arrays[name] = outside
        code = f"slope_by({function}, {outside})"
        return self.looked_up(code, node.array.indices, node.args[1:], args)


def _letters(dims: Sequence[Index]) -> dict[Index, str]:
    """A letter for each index, its own where it is free."""
    found: dict[Index, str] = {}
    spare = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    wanted = {index.name for index in dims}
    for index in dims:
        letter = index.name
        if len(letter) != 1 or not letter.isalpha() or letter in found.values():
            letter = next(c for c in spare if c not in wanted and c not in found.values())
        found[index] = letter
    return found
