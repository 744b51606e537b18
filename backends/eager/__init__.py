"""The eager form: the dense formula of a Spec as straight-line torch code.

    emit_eager(spec)  ->  the text of `eager(q, k, v, *, ...)`

The text needs the names of SUPPORT around it, which an emitted module carries along. The function
takes the operator's tensors and numbers by name (a Python keyword or a name that the code uses
itself gets an underscore: see `argument_names`), `offset`, `key_offset`, `key_length`, `seed` and
`emit`, and initial states by name; it returns "out" and the emits by name. In float64 its autograd
is the reference of all derivatives; in a lower dtype its run is the yardstick of error
(attnc/runtime/eager_numbers.py says what that is).

It reads the Spec and shares nothing with the passes, nor with the NumPy oracle. It does not check
that reads are inside their arrays: the oracle and the call do.
"""

from __future__ import annotations

from attnc.backends.eager.function import FunctionPrinter

from attnc.spec import Spec

# Files of attnc/runtime that the text needs around it, in this order.
SUPPORT = (
    "failures",
    "eager_rows",
    "eager_slopes",
    "eager_numbers",
    "eager_support",
    "eager_calls",
)


def emit_eager(spec: Spec, function: str = "eager") -> str:
    """The text of the function of this name."""
    printer = FunctionPrinter(spec)
    printer.function = function
    return printer.text()


def argument_names(spec: Spec) -> dict[str, str]:
    """What the printed function calls the tensors, numbers and states of the operator."""
    return FunctionPrinter(spec).arguments
