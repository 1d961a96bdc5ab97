"""Kernels as text: for people, for `--emit kernel`, and to tell which kernels are the same.

Axes and ports have numbers in the order in which they appear, so that two kernels that differ only
in where their memory is have one text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from weft.compiler.index import Atom, Axis, Datum, Floor, Index
from weft.compiler.kernel import (
    Attention,
    Convolution,
    Kernel,
    Matrix,
    Nest,
    Port,
    Product,
    Special,
    Stage,
    Store,
    Track,
    Turns,
    View,
)
from weft.compiler.scalar import Apply, Bits, Guard, Literal, Load, Position, Result, Scalar


def text(kernel: Kernel) -> str:
    """The kernel in lines."""
    return _Printer().kernel(kernel)


def program_text(name: str, kernels: Sequence[Kernel]) -> str:
    """Each distinct kernel once, with a name; then the step: their calls, in order.

    Names are given in the order of the calls. A call has its arguments, and the place in the spec
    of the last thing that it computes: `x[64]` is x from its 64th element on, `t5@128` the value
    t5 at byte 128 of the arena.
    """
    names: dict[str, str] = {}
    steps: list[str] = []

    def calls(kernels: Sequence[Kernel], depth: int) -> None:
        margin = "  " * depth
        for kernel in kernels:
            ports = ", ".join(map(_argument, kernel.ports))
            if isinstance(kernel, Turns):
                steps.append(f"{margin}turns k < {kernel.length} of {ports}")
                moving = kernel.tracks.items()
                steps.extend(f"{margin}  {buffer.name} at {_track(t)}" for buffer, t in moving)
                calls(kernel.kernels, depth + 1)
            else:
                called = names.setdefault(text(kernel), f"kernel_{len(names)}")
                span = next((n.span for n in reversed(kernel.nodes) if n.span is not None), None)
                place = f"   # {span}" if span is not None else ""
                steps.append(f"{margin}{called} {ports}{place}")

    calls(kernels, 1)
    functions = [f"{named} {printed.removeprefix('kernel ')}" for printed, named in names.items()]
    return "\n".join([*functions, f"{name}", *steps, ""])


@dataclass(eq=False)
class _Printer:
    lines: list[str] = field(default_factory=list)
    axes: dict[Axis, str] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    _kept: list[Scalar] = field(default_factory=list)

    def kernel(self, kernel: Kernel) -> str:
        ports = ", ".join(f"p{i}: {p.dtype}" for i, p in enumerate(kernel.ports))
        self.line(0, f"kernel {type(kernel).__name__.lower()}({ports})")
        match kernel:
            case Nest():
                self.line(1, f"rows {self.declare(kernel.rows)}".rstrip())
                for stage in kernel.stages:
                    self.stage(stage)
            case Product():
                a, b, (m, n, k) = kernel.lhs, kernel.rhs, kernel.sizes
                sums = f" sums {list(kernel.sums)}" if kernel.sums else ""
                factors = " factors tf32" if kernel.tf32 else ""
                self.line(1, f"batch {list(kernel.batch)} m {m} n {n} k {k}{sums}{factors}")
                for name, matrix in (("lhs", a), ("rhs", b)):
                    self.matrix(name, matrix)
                self.stage(kernel.epilogue)
            case Attention():
                self.attention(kernel)
            case Convolution():
                for name, view in (("x", kernel.x), ("kernel", kernel.kernel)):
                    self.view(name, view)
                self.line(
                    1,
                    f"strides {kernel.strides} padding {kernel.padding} lhs_dilation "
                    f"{kernel.lhs_dilation} rhs_dilation {kernel.rhs_dilation} "
                    f"groups {kernel.groups}{' factors tf32' if kernel.tf32 else ''}",
                )
                self.stage(kernel.epilogue)
            case Special():
                attributes = {k: v for k, v in kernel.node.attributes.items() if k != "body"}
                self.line(1, f"{kernel.node.op.name} {attributes}")
                for number, view in enumerate(kernel.views):
                    self.view(f"view {number}", view)
            case Turns():
                self.turns(kernel)
        return "\n".join(self.lines) + "\n"

    def line(self, depth: int, words: str) -> None:
        self.lines.append("  " * depth + words)

    def matrix(self, name: str, matrix: Matrix) -> None:
        self.line(
            1,
            f"{name} p{matrix.port} batch {list(matrix.batch)} "
            f"row {matrix.row} column {matrix.column}"
            + (f" sums {list(matrix.sums)}" if matrix.sums else ""),
        )

    def attention(self, kernel: Attention) -> None:
        self.line(1, f"batch {self.declare(kernel.batch)}".rstrip())
        self.line(
            1,
            f"rows {self.declare((kernel.rows,))} columns {self.declare((kernel.columns,))}"
            f"{' factors tf32' if kernel.tf32 else ''}",
        )
        for number, inner in enumerate(kernel.inner):
            self.line(1, f"%{number} = sum of {inner.depth} products")
            self.matrix("  left", inner.left)
            self.matrix("  right", inner.right)
        if kernel.softmax is not None:
            found = kernel.softmax
            self.line(1, f"%{found.maximum}, %{found.total}, %{found.weight} = softmax")
            self.line(2, f"of {self.scalar(found.score)}")
            self.stores(found.stores)
        if kernel.hidden is not None:
            gaps = " or ".join(f"{self.index(gap)} > 0" for gap in kernel.hidden.gaps)
            self.line(1, f"hidden where {gaps}")
            self.line(2, f"if 0 is {self.scalar(kernel.hidden.weight)}")
        for outer in kernel.outer:
            self.line(1, f"%{outer.number} = sum over columns {self.declare((outer.axis,))}")
            self.line(2, f"of {self.scalar(outer.value)}")
            self.matrix("  factor", outer.factor)
            self.stores((outer.store,))

    def view(self, name: str, view: View) -> None:
        self.line(1, f"{name} p{view.port} {list(view.shape)} steps {list(view.strides)}")

    def turns(self, turns: Turns) -> None:
        self.line(1, f"turns k < {turns.length}, memory p{turns.arena}")
        for buffer, track in turns.tracks.items():
            self.line(2, f"{buffer.name} at {_track(track)}")
        names = {id(buffer): buffer.name for buffer in turns.tracks}
        for kernel in turns.kernels:
            ports = (
                names.get(id(port.buffer), port.buffer.name)
                + f"[{port.offset}]" * (port.offset > 0)
                for port in kernel.ports
            )
            self.line(2, f"call {', '.join(ports)}")
            for words in text(kernel).splitlines():
                self.line(3, words)

    def declare(self, axes: tuple[Axis, ...]) -> str:
        return ", ".join(f"{self.axis(axis)} < {axis.extent}" for axis in axes)

    def axis(self, axis: Axis) -> str:
        return self.axes.setdefault(axis, f"i{len(self.axes)}")

    def stage(self, stage: Stage) -> None:
        self.line(1, f"stage {self.declare(stage.axes)}".rstrip())
        for fold in stage.folds:
            value = self.scalar(fold.value)
            place = "" if fold.place is None else f" at {self.scalar(fold.place)}"
            self.line(2, f"fold %{fold.number} = {fold.how} {value} : {fold.dtype}{place}")
        self.stores(stage.stores)

    def stores(self, stores: Sequence[Store]) -> None:
        for store in stores:
            value = self.scalar(store.value)
            self.line(2, f"p{store.port}[{self.index(store.index)}] = {value}")

    def scalar(self, scalar: Scalar) -> str:
        """The scalar; operations get a name, so that sharing shows."""
        if id(scalar) in self._names:
            return self._names[id(scalar)]
        match scalar:
            case Literal():
                return f"{scalar.value!r}:{scalar.dtype}"
            case Load():
                return f"p{scalar.port}[{self.index(scalar.index)}]"
            case Position():
                return f"{scalar.dtype}({self.index(scalar.index)})"
            case Result():
                return f"%{scalar.number}"
            case Apply():
                parts = ", ".join(self.scalar(part) for part in scalar.parts)
                made = f"{scalar.op}({parts})"
            case Guard():
                tests = " and ".join(
                    f"{b.low} <= {self.index(i)} < {b.high}" + (f" by {b.step}" * (b.step > 1))
                    for i, b in zip(scalar.tests, scalar.bounds, strict=True)
                )
                made = f"{self.scalar(scalar.value)} if {tests} else {self.scalar(scalar.other)}"
            case Bits():
                words = ", ".join(self.scalar(word) for word in scalar.key)
                made = f"bits({words}, {self.index(scalar.position)})"
            case _:
                raise AssertionError(scalar)
        name = f"v{len(self._names)}"
        self._names[id(scalar)] = name
        self._kept.append(scalar)
        self.line(2, f"{name} = {made} : {scalar.dtype}")
        return name

    def index(self, index: Index) -> str:
        parts = []
        for atom, factor in index.terms:
            name = self._atom(atom)
            parts.append(name if factor == 1 else f"{factor}*{name}")
        if index.constant or not parts:
            parts.append(str(index.constant))
        return " + ".join(parts).replace("+ -", "- ")

    def _atom(self, atom: Atom) -> str:
        if isinstance(atom, Axis):
            return self.axis(atom)
        if isinstance(atom, Datum):
            return f"at({self.scalar(atom.scalar)}, {atom.limit})"
        sign = "//" if isinstance(atom, Floor) else "%"
        return f"(({self.index(atom.index)}) {sign} {atom.divisor})"


def _argument(port: Port) -> str:
    buffer = port.buffer
    if buffer.kind in ("arena", "scratch"):
        return f"{buffer.name}@{buffer.offset + port.offset * buffer.dtype.bytes}"
    return f"{buffer.name}[{port.offset}]"


def _track(track: Track) -> str:
    turn = "k" if track.period is None else f"(k % {track.period})"
    words = f"p{track.port}" + (f" + {track.step}*{turn}" if track.step else "")
    for when, port in (("first", track.first), ("last", track.last)):
        words += "" if port is None else f", {when} p{port}"
    return words.replace("+ -", "- ")
