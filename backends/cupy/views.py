"""Functions over views: what the kernels of single ops are printed with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from weft.backends.cupy import scalar
from weft.backends.cupy.code import Launch, launch
from weft.backends.cupy.emit import Emitter, Namer
from weft.backends.cupy.points import spread
from weft.compiler.index import Axis, Index, along, flat
from weft.compiler.kernel import Port, Special, View


class Body:
    """The lines of a function over views."""

    def __init__(self, special: Special) -> None:
        self.special = special
        longest = max(map(_reach, special.views))
        self.type = "int" if longest < 1 << 30 else "long long"
        self.code = Emitter({}, Namer(), self.type)

    def line(self, words: str) -> None:
        self.code.line(words)

    def element(self, view: View) -> str:
        """The C++ type in which a view's elements are computed."""
        return scalar.computed_name(self.special.ports[view.port].dtype)

    def spread(self, number: str, shape: Sequence[int]) -> list[Index]:
        """The indices of a point, for its number."""
        axes = [Axis(size) for size in shape]
        spread(self.code, number, axes)
        return [along(axis) for axis in axes]

    def named(self, name: str, extent: int) -> Index:
        """An index that a C++ variable holds."""
        axis = Axis(extent + 2)
        self.code.axes[axis] = name
        return along(axis)

    def at(self, view: View, indices: Sequence[Index]) -> str:
        """The element of a view."""
        return f"p{view.port}[{self.code.index(flat(indices, view.strides))}]"

    def function(self, head: str, lines: Callable[[], Sequence[str]]) -> None:
        """A local function; `lines` may need lines before them."""
        with self.code.block(f"const auto {head}", "};"):
            self.code.say(lines())

    def launch(self, blocks: int, threads: int, ports: Sequence[Port] = ()) -> Launch:
        every = (*self.special.ports, *ports)
        return launch(self.special.node.op.name, every, self.code.lines, (blocks, 1, 1), threads)


def _reach(view: View) -> int:
    return sum(abs(step) * size for step, size in zip(view.strides, view.shape, strict=True))
