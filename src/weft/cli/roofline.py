"""The roofline figure: what kernels reach, under what the machine would let them reach.

FLOP/s |        ______________  a large product
       |     o /
       |      /  O              a kernel: its area is its share of the time
       |  o  /
       |____/____________________  FLOPs for each byte of memory
          a copy: bytes a second times FLOPs for each byte
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.compiler.errors import RunError

if TYPE_CHECKING:
    from weft.runtime.profile import Profile

# Middle tones, which are legible on white and on black; the background is left to the page.
GREY, BLUE, ORANGE = "#7d8590", "#2f81f7", "#e3702c"
STYLE = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.linewidth": 0.7,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "lines.linewidth": 1.2,
    "savefig.transparent": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "weft",
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}
NAMED = 8  # the slowest kernels have their names beside them


def require(path: Path) -> None:
    """Raises RunError for a name that is no SVG's, and without the package that draws."""
    if path.suffix != ".svg":
        raise RunError(
            f"`{path.name}` is no kind of picture", expected="a name that ends in `.svg`"
        )
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise RunError(
            "drawing needs matplotlib, which is not installed",
            hint='`pip install "weft[plot]"`; the table needs nothing',
        ) from None


def drawn(profile: Profile, path: Path) -> None:
    """Write the figure."""
    from io import StringIO

    import matplotlib
    from matplotlib.figure import Figure

    from weft.cli.output import write_text

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot(xscale="log", yscale="log")
        rows = [row for row in profile.rows if row.cost.flops and row.cost.bytes and row.seconds]
        ridge = profile.peaks.flops / min(rate for _, rate in profile.peaks.copies)
        at = [row.cost.flops / row.cost.bytes for row in rows]
        low, high = min([0.05, *at]) / 2, max([4 * ridge, *at]) * 2
        _roofs(axes, profile, low, high)
        for number, (row, x) in enumerate(zip(rows, at, strict=True)):
            share = row.seconds / profile.inside
            colour = ORANGE if row.bound == "arithmetic" else BLUE
            axes.scatter(
                [x], [row.flop_rate], s=12 + 900 * share, color=colour, alpha=0.55, linewidths=0
            )
            if number < NAMED:
                axes.annotate(
                    f"{row.name}, {100 * share:.0f} %",
                    (x, row.flop_rate),
                    xytext=(5, 3),
                    textcoords="offset points",
                    fontsize=6.5,
                )
        axes.set_xlim(low, high)
        axes.set_xlabel("FLOPs for each byte of memory")
        axes.set_ylabel("FLOPs a second")
        axes.set_title(
            f"{profile.name}: {profile.graph} on {profile.backend}, batches of {profile.batch}, "
            f"threads: {profile.threads}",
            fontsize=8,
        )
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    write_text(path, text.getvalue())


def _roofs(axes: Any, profile: Profile, low: float, high: float) -> None:
    """The product's rate, and the slopes of the fastest copy and of that in memory."""
    from weft.cli.output import amount

    top = profile.peaks.flops
    for (size, rate), style in (
        (profile.peaks.fastest_copy, "--"),
        (profile.peaks.copies[-1], "-"),
    ):
        ridge = top / rate
        axes.plot([low, ridge, high], [low * rate, top, top], style, color=GREY, zorder=0)
        axes.annotate(
            f"copies of {amount(size, 'B')}: {amount(rate, 'B/s')}",
            (low * 1.2, low * 1.2 * rate),
            xytext=(2, 4),
            textcoords="offset points",
            fontsize=6.5,
        )
    axes.annotate(
        f"product: {amount(top, 'FLOP/s')}",
        (high, top),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        fontsize=6.5,
    )
