"""The composed form of a pipeline: a function that calls the kernels of its blocks, with the
equations between them as torch operations.

    emit_composed(spec, pipeline)  ->  the text of `composed(q, k, v, *, ..., stages)`
    steps_of(spec, pipeline)       ->  what runs in which order, and what each equation became

The text needs the names of attnc/runtime/eager_forms, pipeline and those of the eager form.
"""

from __future__ import annotations

from attnc.backends.composed.function import (
    Equation,
    Step,
    composed_names,
    emit_composed,
    steps_of,
)

__all__ = ["Equation", "Step", "composed_names", "emit_composed", "steps_of"]
