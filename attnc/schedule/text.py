"""A Schedule as text: what `attnc show --emit schedule` prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attnc.expressions.index import Index
from attnc.expressions.text import expression_text
from attnc.expressions.tree import Array, Expr
from attnc.schedule import Kernel, RepeatKernels, Schedule
from attnc.schedule.chunks import (
    ChunkStatement,
    LaterRows,
    LogGradient,
    Pairs,
    RowSum,
    TransposedSolve,
    parts_of,
)
from attnc.schedule.maps import MapKernel, SelectKernel, StepKernel
from attnc.schedule.regions import Region
from attnc.schedule.scans import (
    Final,
    ReverseChunks,
    ReverseScanKernel,
    RowWrite,
    ScanKernel,
)
from attnc.schedule.statements import (
    Access,
    Carried,
    Contraction,
    Contribution,
    Decays,
    Deposit,
    Let,
    Paged,
    Product,
    Running,
    Scanned,
    ScannedPair,
    Scatter,
    Store,
    Strided,
    TileScan,
    TriangularSolve,
)
from attnc.schedule.streams import StreamKernel, WalkedLoop


def schedule_text(schedule: Schedule) -> str:
    """The text of a schedule: notes, workspaces, kernels in order."""
    lines = [f"schedule {schedule.name}"]
    lines.extend(f"  # {note}" for note in schedule.notes)
    lines.extend(f"  workspace {_left(s.array)}: {s.dtype}" for s in schedule.workspaces)
    for kernel in schedule.kernels:
        lines.extend(f"  {line}" for line in _kernel(kernel))
    return "\n".join(lines) + "\n"


def _kernel(kernel: Kernel) -> Iterator[str]:
    if isinstance(kernel, StreamKernel):
        yield from _stream(kernel)
    elif isinstance(kernel, MapKernel):
        yield f"map {kernel.name} over {_indices(kernel.over)}"
        yield from _lets(kernel.values)
        yield from _stores(kernel.stores)
    elif isinstance(kernel, RepeatKernels):
        yield f"repeat {kernel.index} < {_text(kernel.count)}"
        for inner in kernel.kernels:
            yield from (f"  {line}" for line in _kernel(inner))
    elif isinstance(kernel, ScanKernel):
        yield from _scan(kernel)
    elif isinstance(kernel, ReverseScanKernel):
        yield from _reverse_scan(kernel)
    elif isinstance(kernel, SelectKernel):
        yield f"select {kernel.name} over {_indices(kernel.over)}"
        given = f"if {_text(kernel.condition)}: {_text(kernel.key)}, {_text(kernel.count)}"
        yield f"  {_left(kernel.array)} = topk({kernel.candidate} {given})"
    else:
        yield from _step(kernel)


def _stream(kernel: StreamKernel) -> Iterator[str]:
    yield f"stream {kernel.name}: hold {kernel.held}, for each {_indices(kernel.grid)}"
    if kernel.split is not None:
        yield f"  share {kernel.split} of the walked tiles"
    yield from _access(kernel.access, kernel.held)
    yield from _lets(kernel.grid_values)
    yield from _lets(kernel.held_values)
    if kernel.idle is not None:
        yield f"  idle {_text(kernel.idle)}"
    yield from (f"  carry {_carried(carried)}" for carried in kernel.carried)
    for loop in kernel.loops:
        yield from (f"  {line}" for line in _loop(loop))
    yield from _lets(kernel.finish)
    yield from _stores(kernel.stores)


def _carried(carried: Carried) -> str:
    width = f"[{carried.width}]" if carried.width else ""
    relative = ", relative to the reference" if carried.rescaled else ""
    return f"{carried.name}{width}: {carried.monoid}{relative}"


def _loop(loop: WalkedLoop) -> Iterator[str]:
    around = f" for each {_indices(loop.around)}" if loop.around else ""
    yield f"walk {loop.walked}{' backward' if loop.backward else ''}{around}"
    if loop.chosen is not None:
        yield f"  tiles chosen by {loop.chosen.chosen.name}"
    yield from _access(loop.access, loop.walked)
    yield from (f"  {line}" for line in _region(loop.region))
    yield from _lets(loop.walked_values)
    yield from (f"  {_product(product)}" for product in loop.products)
    for statement in loop.pair_values:
        yield from _running(statement) if isinstance(statement, Running) else _lets((statement,))
    if loop.visible is not None:
        yield f"  visible {_text(loop.visible)}"
    if loop.hidden is not None:
        yield f"  hidden {_text(loop.hidden)}"
    if loop.exponent is not None:
        yield f"  reference = max({_text(loop.exponent)})"
    yield from _lets(loop.lifted)
    yield from (f"  {_contribution(one)}" for one in loop.contributions)
    for deposit in loop.deposits:
        at = ", ".join(map(str, deposit.array.indices))
        yield f"  {deposit.array.name}[{at}] += {_term(deposit)}"
    for scatter in loop.scatters:
        yield f"  {scatter.array.name}[{_text(scatter.at)}] += {_term(scatter)}"


def _running(one: Running) -> Iterator[str]:
    own = " and here" if one.inclusive else ""
    where = "ahead" if one.ahead else "before"
    yield f"  {one.name} = {one.monoid} {where}{own}: {_text(one.expr)}"


def _term(added: Deposit | Scatter) -> str:
    term = _text(added.term)
    return term if added.operand is None else f"{term} * {_text(added.operand)}"


def _region(region: Region) -> Iterator[str]:
    yield from (f"summary {s.name} of {_text(s.expr)}" for s in region.summaries)
    for segment in region.segments:
        span = f"{_text(segment.start)} .. {_text(segment.stop)}"
        yield f"tiles {span}, whole {_text(segment.full_start)} .. {_text(segment.full_stop)}"
    if not region.segments and region.possible.attr is not True:
        yield f"tiles where {_text(region.possible)}"
    if not region.segments and region.certain.op != "number":
        yield f"whole where {_text(region.certain)}"


def _product(product: Product) -> str:
    left, right = _text(product.left), _text(product.right)
    return f"{product.name} = sum({product.width}: {left} * {right})"


def _contribution(one: Contribution) -> str:
    times = f" * {_text(one.operand)}" if one.operand is not None else ""
    return f"{one.carried} <- {_text(one.term)}{times}"


def _scan(kernel: ScanKernel) -> Iterator[str]:
    loop = kernel.loop
    how = "row by row" if loop.inner is None else "in chunks"
    how = "in tiles" if any(isinstance(one, (Scanned, ScannedPair)) for one in loop.inside) else how
    yield f"scan {kernel.name} along {loop.time} {how}, for each {_indices(kernel.grid)}"
    yield from _lets(kernel.grid_values)
    for state, first in zip(loop.states, loop.initial, strict=True):
        yield f"  state {_left(state)} = {_text(first)}"
    for statement in loop.inside:
        yield f"  {_statement(statement)}"
    for state, after in zip(loop.states, loop.advance, strict=True):
        yield f"  {_left(state)} <- {_text(after)}"
    yield from _lets(loop.after)
    yield from _stores(kernel.stores)
    yield from _finals(kernel.finals)
    for one in kernel.checkpoints:
        yield f"  every {kernel.every} rows {_left(one.array)} = {_left(one.state)} before"
    if kernel.shares is not None:
        share = kernel.shares
        pairs = zip(share.loop.states, share.loop.advance, strict=True)
        yield from (f"  share: {_left(state)} <- {_text(after)}" for state, after in pairs)
        both = zip(loop.states, share.joined, strict=True)
        yield from (f"  after a share {_left(state)} = {_text(joined)}" for state, joined in both)
    for other in (kernel.chunked, kernel.tiled):
        if other is not None:
            yield from _scan(other)


def _finals(finals: Iterable[Final]) -> Iterator[str]:
    for final in finals:
        at = ", ".join(map(_text, final.at))
        yield f"  last {final.array.name}[{at}] = {_left(final.state)}"


def _reverse_scan(kernel: ReverseScanKernel) -> Iterator[str]:
    replay = kernel.replay
    how = f"along {replay.time} backwards in blocks of {kernel.every} rows"
    yield f"reversed scan {kernel.name} {how}, for each {_indices(kernel.grid)}"
    yield from _lets(kernel.grid_values)
    for one in kernel.checkpoints:
        yield f"  block: {one.state.name} = {one.array.name}"
    for statement in replay.inside:
        yield f"    {_statement(statement)}"
    for twin, expr in zip(kernel.twins, replay.advance, strict=True):
        yield f"    {_left(twin)} = {_text(expr)}"
    for array, expr in zip(kernel.carried, kernel.initial, strict=True):
        yield f"  carry {_left(array)} = {_text(expr)}"
    yield from _lets(kernel.inside)
    yield from _carried_on(kernel, kernel.absorbed)
    yield from _lets(kernel.given)
    yield from map(_row_write, kernel.writes)
    yield from _carried_on(kernel, kernel.advance)
    yield from (f"  at the end: {_let(let)}" for let in kernel.last)
    yield from (f"  at the end:{line[1:]}" for line in _carried_on(kernel, kernel.ending))
    yield from (f"  at the end:{_row_write(one)[1:]}" for one in kernel.ended)
    yield from _finals(kernel.finals)
    if kernel.chunked is not None:
        yield from _reverse_chunks(kernel, kernel.chunked)
    if kernel.tiled is not None:
        yield f"  in tiles of {kernel.every} rows"
        yield from (f"    {_let(let)}" for let in kernel.tiled.values)
        yield from (f"    {_statement(statement)}" for statement in kernel.tiled.inside)
        yield from (f"  {_row_write(write)}" for write in kernel.tiled.writes)


def _reverse_chunks(kernel: ReverseScanKernel, chunk: ReverseChunks) -> Iterator[str]:
    yield f"reversed scan {kernel.name} in chunks"
    yield from _lets(chunk.values)
    for one in chunk.forward:
        yield f"    {_statement(one)}"
    for state, expr in zip(kernel.replay.states, chunk.onward, strict=True):
        yield f"    {_left(state)} <- {_text(expr)}"
    for one in chunk.inside:
        yield f"  {_statement(one)}"
    yield from map(_row_write, chunk.writes)
    yield from _carried_on(kernel, chunk.advance)


def _carried_on(kernel: ReverseScanKernel, exprs: Iterable[Expr]) -> Iterator[str]:
    """What is carried, where it changes."""
    for array, expr in zip(kernel.carried, exprs, strict=True):
        if expr.op != "read" or expr.array.name != array.name:
            yield f"  {_left(array)} <- {_text(expr)}"


def _row_write(write: RowWrite) -> str:
    at = ", ".join(map(_text, write.at))
    test = "" if write.condition is None else f" if {_text(write.condition)}"
    over = f" for {_indices(write.over)}" if write.over else ""
    return (
        f"  {write.array.name}[{at}] {'+=' if write.adds else '='} {_text(write.term)}{over}{test}"
    )


def _statement(statement: Product | ChunkStatement | Decays | TileScan) -> str:
    if isinstance(statement, Let):
        return _let(statement)
    if isinstance(statement, ScannedPair):
        a, b, c, d = map(_text, statement.factors)
        p, q = map(_text, statement.added)
        x, y = (_left(array) for array in statement.after)
        way = ", the last row first" if statement.later else ""
        return f"scan ({x}, {y}) = [{a}, {b}; {c}, {d}] @ both + ({p}, {q}){way}"
    if isinstance(statement, Scanned):
        times, plus = ("*", "+") if statement.plus == "sum" else ("+", statement.plus)
        pair = f"{_text(statement.factor)} {times} {statement.state.name} {plus} "
        way = ", the last row first" if statement.later else ""
        return f"scan {_left(statement.after)} = {pair}{_text(statement.added)}{way}"
    if isinstance(statement, Contraction):
        return _contraction(statement)
    if isinstance(statement, Decays):
        own = " before the row" if statement.before else ""
        return f"{statement.name} = decays {statement.which}{own}: {_text(statement.log)}"
    if isinstance(statement, Product):
        return _product(statement)
    if isinstance(statement, (TriangularSolve, TransposedSolve)):
        turned = "" if isinstance(statement, TriangularSolve) else "transposed "
        return f"{statement.name} = solve({turned}1 + {_text(statement.matrix)}, " + (
            f"{_text(statement.right)})"
        )
    return f"{statement.name} = {_of_rows(statement)}"


def _of_rows(one: RowSum | Pairs | LaterRows | LogGradient) -> str:
    """What a statement of a reversed chunk makes."""
    parts = " * ".join(map(_text, parts_of(one)))
    if isinstance(one, RowSum):
        which = "after" if one.later else "before"
        return f"sum over rows {which}{', with its own' if one.own else ''}: {parts}"
    what = {Pairs: "pairs, decayed", LaterRows: "sum over later rows"}.get(
        type(one), "of logarithms"
    )
    return f"{what}{' before the row' if one.before else ''}: {parts}"


def _contraction(one: Contraction) -> str:
    decay = ""
    if one.log is not None:
        decay = f", decayed by exp({_text(one.log)}){' before the row' if one.before else ''}"
    return f"{one.name} = sum along {one.along}: {_text(one.left)} * {_text(one.right)}{decay}"


def _step(kernel: StepKernel) -> Iterator[str]:
    yield f"step {kernel.name} for each {_indices(kernel.grid)}"
    yield from _lets(kernel.values)
    for state, after in zip(kernel.states, kernel.next, strict=True):
        yield f"  {_left(state)} <- {_text(after)}"
    yield from _stores(kernel.stores)


def _access(access: Access, index: Index) -> Iterator[str]:
    if isinstance(access, Strided):
        return
    if isinstance(access, Paged):
        yield f"  {index} in pages of {_text(access.page)} by {access.table.name}"
    else:
        yield f"  {index} packed by {access.starts.name}"


def _lets(lets: Iterable[Let]) -> Iterator[str]:
    return (f"  {_let(let)}" for let in lets)


def _let(let: Let) -> str:
    return f"{let.name} = {_text(let.expr)}"


def _stores(stores: Iterable[Store]) -> Iterator[str]:
    return (f"  store {_left(store.array)} = {_text(store.expr)}" for store in stores)


def _left(array: Array) -> str:
    return f"{array.name}[{_indices(array.indices)}]" if array.indices else array.name


def _indices(indices: Iterable[Index]) -> str:
    return ", ".join(map(str, indices))


def _text(expr: Expr) -> str:
    return expression_text(expr, limit=600)
