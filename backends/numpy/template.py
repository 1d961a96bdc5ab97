"""What templates are, and the sizes that they all ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from weft.compiler.graph import Node
from weft.compiler.types import static_shape

if TYPE_CHECKING:
    from weft.backends.numpy.printer import Printer

Template = Callable[["Printer", Node], None]


def shape_of(node: Node) -> tuple[int, ...]:
    """The node's shape in numbers."""
    return static_shape(node.type.shape)


def round_up(size: int) -> int:
    """The next multiple of 64."""
    return -(-size // 64) * 64
