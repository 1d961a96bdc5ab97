"""Images as a tile of a convolution reads them: where they are, or copied with their padding."""

from __future__ import annotations

from tvm import tirx

from weft.backends.tvm import tir
from weft.backends.tvm.convolutions.gathering import Gathered
from weft.backends.tvm.convolutions.places import Line
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.kernel import Convolution


class Images:
    """Some images, some rows of their results, and a block of channels at a time.

    `sizes` are the numbers of images, of channels in a block, and of rows of results; `start` is
    the first image and the first row. `strides` lead to the next channel, row and column, `apart`
    to the next image.
    """

    def __init__(
        self,
        conv: Convolution,
        buffers: list[Buffer],
        lines: tuple[Line, Line],
        sizes: tuple[int, int, int],
        start: tuple[Expr, Expr],
    ) -> None:
        self.view = conv.x
        self.y, self.x = lines
        self.source = buffers[conv.x.port]
        self.images, self.depth, rows = sizes
        self.image, row = start
        self.top = row * tir.number(self.y.step) + tir.number(self.y.shift)
        self.makes: list[Stmt] = []
        self.copied = not (self.y.is_inside and self.x.is_inside)
        self.height, self.width = self.y.places(rows), self.x.places(self.x.count)
        self.area = self.height * self.width
        self.buffer = self.source
        self.apart, *self.strides = conv.x.strides
        if self.copied:
            name = tir.stored(conv.ports[conv.x.port].dtype)
            size = self.images * self.depth * self.area
            self.buffer, make = tir.local("padded", name, size, "global")
            self.makes.append(make)
            self.apart, self.strides = self.depth * self.area, [self.area, self.width, 1]

    def start(self, image: Expr, channel: Expr) -> Expr:
        """Where place 0 of an image is, in the first channel of the block that begins there."""
        if self.copied:
            return image * tir.number(self.depth * self.area)
        n, c, y, x = self.view.strides
        return (
            (self.image + image) * tir.number(n)
            + channel * tir.number(c)
            + self.top * tir.number(y)
            + tir.number(self.x.shift * x)
        )

    def filled(self, images: int | Expr, first: Expr, channels: int | Expr) -> list[Stmt]:
        """Copies channels from `first` on, with zeros around the images, if it is a copy."""
        if not self.copied:
            return []
        n, c, y, x = self.view.strides
        across = Gathered(self.width, self.x.shift, 1, self.x.size, 1, x)

        def plane(image: Expr, channel: Expr) -> list[Stmt]:
            into = (image * tir.number(self.depth) + channel) * tir.number(self.area)
            start = (self.image + image) * tir.number(n) + (first + channel) * tir.number(c)

            def row(r: Expr) -> list[Stmt]:
                at = self.top + r
                to = into + r * tir.number(self.width)
                origin = start + at * tir.number(y)
                copy, zeros = across.copied(self.buffer, to, self.source, origin)
                if self.y.is_inside:
                    return [copy]
                inside = tirx.all(at >= tir.number(0), at < tir.number(self.y.size))
                return [tir.either(inside, copy, zeros)]

            return [tir.loop(self.height, row, name="row")]

        return [
            tir.loop(
                images,
                lambda g: [tir.loop(channels, lambda c: plane(g, c), name="channel")],
                name="image",
            )
        ]
