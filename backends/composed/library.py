"""Prints what a library does with windows, looked-up rows and turning sums (see forms)."""

from __future__ import annotations

from attnc.backends.composed.forms import Transformed
from attnc.backends.composed.lookups import Bagged
from attnc.backends.composed.windows import Windowed
from attnc.backends.eager.folds import FoldPrinter
from attnc.backends.eager.printer import Names, Text

from attnc.expressions.index import Index
from attnc.expressions.tree import TRUE, Expr

WORDS = {"sum": "sum", "max": "maximum", "min": "minimum"}


class LibraryPrinter(FoldPrinter):
    """A printer that says what equations became: `said`, in order."""

    def __init__(self, names: Names) -> None:
        super().__init__(names)
        self.said: list[str] = []

    def say(self, what: str) -> None:
        if what not in self.said:
            self.said.append(what)

    def print_windowed(self, form: Windowed, args: list[Text]) -> Text:
        count = 6 * len(form.steps)
        numbers, (moved, *taps) = args[:count], args[count:]
        steps = [numbers[at : at + 6] for at in range(0, count, 6)]
        said = ", ".join(f"({', '.join(each.code for each in step)})" for step in steps)
        flat = len(form.results) == 1
        tail = f"({said},), "
        held = f", {self._held(form)}" if form.shifted else ""
        if not taps:
            self.say(f"a {WORDS[form.how]} over windows (unfold)")
            rest = tuple(index for index in moved.dims if index != form.place)
            code = f'pooled("{form.how}", {self.moved(moved, (*rest, form.place))}, '
            code += f"{tail}{flat}{held})"
            return self.permuted(code, (*rest, *form.results))
        (own,) = taps
        taken = [step.tap for step in form.steps if step.tap is not None]
        window = tuple(tap for tap in taken if tap in own.dims)
        summed = tuple(i for i in moved.dims if i in form.summed)
        groups = tuple(i for i in moved.dims if i in own.dims and i not in summed)
        batch = tuple(i for i in moved.dims if i not in (*groups, *summed, form.place))
        outer = tuple(i for i in own.dims if i not in (*groups, *summed, *window))
        kind = "a depthwise convolution" if groups and not summed else "a convolution"
        self.say(f"{kind} (conv{len(form.steps)}d)")
        left = self.moved(moved, (*batch, *groups, *summed, form.place))
        right = self.moved(own, (*groups, *outer, *summed, *window))
        if len(window) < len(form.steps):
            ends = ", ".join(":" if step.tap in own.dims else "None" for step in form.steps)
            right = f"{right}[..., {ends}]"
        kinds = f"({len(batch)}, {len(groups)}, {len(outer)}, {len(summed)})"
        code = f"correlated({left}, {right}, {kinds}, {tail}{self.product_type}, {flat}{held})"
        return self.permuted(code, (*batch, *groups, *outer, *form.results))

    def _held(self, form: Windowed) -> str:
        points = self.starts.get(form.place.axis.name, "0")
        axis = form.results[0].axis.name
        return f"({points}, {self.starts.get(axis, '0')}, {self.lengths[axis]})"

    def print_bagged(self, form: Bagged, args: list[Text]) -> Text:
        self.say("a weighted sum of looked-up rows (embedding_bag)")
        rows, at, weight, condition = args
        own = {*at.dims, *weight.dims, *condition.dims, *form.bound}
        shared = tuple(i for i in rows.dims if i in own)
        width = tuple(i for i in rows.dims if i not in own and i != form.place)
        kept = tuple(i for i in self.sorted((*own, *shared)) if i not in form.bound)
        whole = (*kept, *form.bound)
        first = self.starts.get(form.place.axis.name)
        row = self.aligned(at, whole)
        row = row if first is None else f"{row} - {first}"
        if shared:
            lead = self._row_major(shared, whole)
            row = f"({lead}) * {self.lengths[form.place.axis.name]} + ({row})"
        value = weight
        if not weight.dims:
            value = Text(f"constant({weight.code}, wide, {self.like})")
        code = f"bagged({self.moved(rows, (*shared, form.place, *width))}, {len(shared) + 1}, "
        code += f"{row}, {self.aligned(value, whole)}, ({self._sizes(kept)}, "
        code += f"{self._sizes(form.bound)})"
        code += "" if form.condition == TRUE else f", {self.aligned(condition, whole)}"
        return self.permuted(f"{code})", (*kept, *width))

    def _row_major(self, shared: tuple[Index, ...], whole: tuple[Index, ...]) -> str:
        code = ""
        for index in shared:
            at = self._print_index(Expr("index", (), index, "int"), [])
            place = Text(self._row(at, index), at.dims, True)
            own = f"({self.aligned(place, whole)})"
            code = own if not code else f"({code}) * {self.lengths[index.axis.name]} + {own}"
        return code

    def _sizes(self, dims: tuple[Index, ...]) -> str:
        sizes = ", ".join(self.lengths[index.axis.name] for index in dims)
        return f"({sizes},)" if dims else "()"

    def print_transformed(self, form: Transformed, args: list[Text]) -> Text:
        self.say("a Fourier transform (fft)")
        (body,) = args
        rest = tuple(index for index in body.dims if index != form.time)
        code = f'transformed({self.moved(body, (*rest, form.time))}, "{form.part}", '
        code += f"{self.lengths[form.frequency.axis.name]})"
        return self.permuted(code, (*rest, form.frequency))

    def aligned(self, text: Text, whole: tuple[Index, ...]) -> str:
        """A value that broadcasts over `whole`, an order of its own."""
        order = tuple(index for index in whole if index in text.dims)
        moved = Text(self.moved(text, order), order, text.loose and order == text.dims)
        return self.fit(moved, whole)

    def moved(self, text: Text, dims: tuple[Index, ...]) -> str:
        """A value with its dimensions in this order."""
        if text.dims == dims:
            return text.atom
        places = ", ".join(str(text.dims.index(index)) for index in dims)
        return f"{text.atom}.permute({places})"
