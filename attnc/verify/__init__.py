"""Invariants of Graphs and Schedules, by name. A broken one is a bug of the pass that ran before.

Graph
    closed        an output is over its array's indices only; no `default`, no tile value is in it
    apart         a fold binds an index that no fold around it binds, and that is not free outside
    known         reads are of inputs, iterated arrays and states, at one place for each axis
    kinds         conditions are bools; operands have the kinds that the operation takes

Schedule
    defined       a value is named before it is used, and once
    apart         a fold stands in no other over its index
    levels        the free indices of a statement are those of its field
    stored        a workspace is written before it is read, by indices of the kernel
    carried       contributions go to carried values, with an operand where these have a width
    reference     only a kernel with an exponent has a reference, or rescaled values
    plain         operands of products are plain reads; those of contributions are, or pairwise
    measured      every length that is used can be measured on an input, or is a planner's
"""

from __future__ import annotations

from attnc.schedule import Kernel, RepeatKernels, Schedule
from attnc.schedule.maps import MapKernel, SelectKernel
from attnc.schedule.scans import ReverseScanKernel, ScanKernel
from attnc.schedule.streams import StreamKernel
from attnc.verify.graph import verify_graph
from attnc.verify.scans import Scans
from attnc.verify.streams import Streams
from attnc.verify.terms import broken


def verify_schedule(schedule: Schedule) -> None:
    """Raises InternalError for the first invariant that the schedule breaks."""
    arrays = {argument.array.name for argument in schedule.signature.inputs}
    spaces = {space.array.name for space in schedule.workspaces}
    outputs = {argument.array.name for argument in schedule.signature.outputs}
    measured = {argument.axis for argument in schedule.signature.lengths}
    verifier = Kernels(arrays, spaces, outputs, measured)
    for kernel in schedule.kernels:
        verifier.kernel(kernel)
    missing = outputs - verifier.written
    if missing:
        raise broken("stored", f"nothing writes {', '.join(sorted(missing))}")


class Kernels(Streams, Scans):
    """Verifies kernels, each by what it is."""

    def kernel(self, kernel: Kernel) -> None:
        if isinstance(kernel, StreamKernel):
            self.stream(kernel)
        elif isinstance(kernel, MapKernel):
            self.map(kernel)
        elif isinstance(kernel, RepeatKernels):
            self.expr(kernel.count, "count", {}, frozenset())
            for inner in kernel.kernels:
                self.kernel(inner)
        elif isinstance(kernel, ScanKernel):
            self.scan(kernel)
        elif isinstance(kernel, ReverseScanKernel):
            self.reverse_scan(kernel)
        elif isinstance(kernel, SelectKernel):
            self.select(kernel)
        else:
            self.step(kernel)


__all__ = ["verify_graph", "verify_schedule"]
