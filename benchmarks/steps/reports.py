"""What was measured on a CPU and on a GPU: lines, pages for docs/performance, and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING

import numpy as np
from conditions import Conditions
from measuring import LOSSES, Found, Measured, apart
from processes import PEERS, TITLES
from workloads import Suite, Workload

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Results = Mapping[str, Found]  # by workload

BUSY_GOAL = 3.0  # times the step on a quiet machine

# Middle tones, which are legible on white and on black, as in docs/make_figures.py.
COLOURS = {"weft": "#2f81f7", "torch": "#e3702c", "torch.compile": "#a371f7", "jax": "#3fb950"}
GREY = "#7d8590"
STYLE = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.linewidth": 0.7,
    "axes.titlecolor": GREY,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "legend.frameon": False,
    "legend.labelcolor": GREY,
    "lines.linewidth": 1.6,
    "savefig.transparent": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "weft",
    "xtick.color": GREY,
    "ytick.color": GREY,
}


# -- numbers ---------------------------------------------------------------------------------------


def peers(found: Found) -> dict[str, Measured]:
    return {name: found[name] for name in PEERS if name in found}


def to_best(found: Found) -> float | None:
    """Weft's step over that of the fastest peer."""
    others = [measured.step for measured in peers(found).values()]
    return found["weft"].step / min(others) if others else None


def against(found: Found, peer: str, what: Callable[[Measured], float]) -> float | None:
    """Weft's number over that of one peer."""
    return what(found["weft"]) / what(found[peer]) if peer in found else None


def geometric_mean(ratios: Iterable[float]) -> float:
    values = list(ratios)
    return exp(sum(map(log, values)) / len(values))


def spread(values: Sequence[float]) -> float:
    """The distance of the quartiles, over the median."""
    low, middle, high = quantiles(values, n=4)
    return (high - low) / middle


@dataclass(frozen=True)
class Line:
    """The straight line nearest to points: fixed + each * x."""

    fixed: float
    each: float
    explained: float  # R^2: the share of the variance that it explains
    off: float  # the largest distance of a point, relative to the point

    @staticmethod
    def through(x: Sequence[float], y: Sequence[float]) -> Line:
        each, fixed = np.polyfit(x, y, 1)
        rest = np.asarray(y) - fixed - each * np.asarray(x)
        total = np.asarray(y) - np.mean(y)
        explained = 1 - float(rest @ rest) / float(total @ total)
        return Line(float(fixed), float(each), explained, float(np.max(np.abs(rest) / y)))


@dataclass(frozen=True)
class Scale:
    """Weft on one kind of net, for some values of one setting of its spec."""

    title: str
    setting: str
    values: Sequence[int]
    found: Sequence[Measured]

    @property
    def steps(self) -> list[float]:
        return [measured.step for measured in self.found]

    @property
    def line(self) -> Line:
        return Line.through(self.values, self.steps)

    @property
    def compiling(self) -> Line:
        return Line.through(self.values, [measured.cold for measured in self.found])


def missed(results: Results, suite: Suite) -> list[str]:
    """The goals of a run that it doesn't reach, in words; without a peer its goals are open."""
    found = []
    for name, row in results.items():
        title, weft = suite.workloads[name].title, row["weft"]
        judged = [
            ("step over the best peer's", to_best(row), suite.workloads[name].goal),
            ("peak memory over PyTorch's", against(row, "torch", _peak), suite.memory),
            ("cold start over torch.compile's", against(row, "torch.compile", _cold), suite.cold),
            ("seconds until the first step of a warm start", weft.ready, suite.warm),
            (
                "times as long beside a busy process",
                weft.slowdown if weft.busy else None,
                BUSY_GOAL,
            ),
        ]
        found += [
            f"{title}: {what} is {value:.2f}, not {goal}"
            for what, value, goal in judged
            if value is not None and goal is not None and value > goal
        ]
    ratios = [ratio for row in results.values() if (ratio := to_best(row)) is not None]
    if suite.mean is not None and len(ratios) == len(suite.workloads):
        mean = geometric_mean(ratios)
        found += [f"geometric mean {mean:.2f}, not {suite.mean}"] if mean > suite.mean else []
    return found


def _peak(measured: Measured) -> float:
    return measured.peak


def _cold(measured: Measured) -> float:
    return measured.cold


# -- lines, as the run goes on ---------------------------------------------------------------------


def line(row: Workload, found: Found) -> str:
    """One workload."""
    parts = []
    for framework, m in found.items():
        slower = f", busy {m.slowdown:.1f} x" if m.busy else ""
        before = f" ({_mb(m.base)} at first)" if m.base else ""
        parts.append(
            f"  {TITLES[framework]:13} {_ms(m.step):>9} ms ±{spread(m.steps):4.0%}{slower}   "
            f"{_mb(m.peak):>5} MB{before}   "
            f"cold {m.cold:6.2f} s   warm {m.ready:5.2f} + {m.first:.2f} s   "
            f"import {m.imported:.2f} s"
        )
    ratio = to_best(found)
    end = "" if ratio is None else f": {ratio:.2f} of the best peer (at most {row.goal})"
    title = f"{row.title}{end}; losses differ by {apart(found):.1e}"
    return "\n".join([title, *parts])


def scale_line(scale: Scale) -> str:
    """One scale."""
    points = ", ".join(
        f"{value}: {_ms(seconds)}" for value, seconds in zip(scale.values, scale.steps, strict=True)
    )
    fit = scale.line
    return (
        f"{scale.title} by {scale.setting} (ms): {points}\n"
        f"  {_ms(fit.fixed)} + {_ms(fit.each)} * {scale.setting}, "
        f"R^2 {fit.explained:.4f}, off by at most {fit.off:.0%}"
    )


# -- pages -----------------------------------------------------------------------------------------


def steps_page(results: Results, conditions: Conditions) -> str:
    """Step times, memory and starts against the peers."""
    suite = conditions.suite
    return f"""# Training steps against PyTorch and JAX

Written by `python benchmarks/steps --write`. {conditions.words()}

![Step times over that of the fastest peer](steps.svg)

{how_measured(results, suite)}

{steps_table(results, suite)}

{mean_of_ratios(results, suite)}

Peak resident memory of each process in MB, and what it had after the import of its framework:

{memory_table(results, suite)}

{how_started()}

{starts_table(results, suite)}
"""


def how_measured(results: Results, suite: Suite) -> str:
    """What a time of a step is, and why times can be compared."""
    differ = max(apart(found) for found in results.values())
    return f"""A whole training step in milliseconds: forward, backward and update. The frameworks
take turns, and medians of turns are compared. All begin with the same parameters and see the same
batches: the losses of the first {LOSSES} steps differ by at most {differ:.0e} of themselves, where
{suite.tolerance:g} is allowed. PyTorch has its default layout and fused optimisers, torch.compile
its default mode over model and loss, JAX one jitted step with donated buffers and channels last."""


def how_started() -> str:
    """What a time of a start is."""
    return """Seconds from the imported framework to the first loss: with nothing compiled before
(cold), and in another process with what the first has kept on disk (warm). The time of the import
itself is in parentheses. Weft has all of its code when its first step begins: the last column says
when that is in a warm start, the rest of which is the step. The others compile, or load what they
have compiled, while their first step runs."""


def mean_of_ratios(results: Results, suite: Suite) -> str:
    ratios = [ratio for found in results.values() if (ratio := to_best(found)) is not None]
    if not ratios:
        return "No peer was there to compare with."
    return f"Geometric mean of the ratios: **{geometric_mean(ratios):.2f}**{_goal(suite.mean)}."


def busy_page(results: Results, conditions: Conditions) -> str:
    """How much longer steps take beside a process that keeps all cores busy."""
    names = _frameworks(results)
    rows = [
        [conditions.suite.workloads[w].title, *(f"{found[n].slowdown:.2f}" for n in names)]
        for w, found in results.items()
    ]
    return f"""# Training steps beside a busy process

Written by `python benchmarks/steps --busy --write`. {conditions.words()}

How many times as long a step takes while a second process keeps all cores busy, turn by turn with
and without it. With half of the cores' time for each, 2 is the least that can be expected of a step
that uses all of them.

{table(["workload", *(TITLES[n] for n in names)], rows)}

The goal for Weft is {BUSY_GOAL:.0f} at most.
"""


def scaling_page(scales: Sequence[Scale], conditions: Conditions) -> str:
    """Step times by batch size and by depth."""
    rows, compiling = [], []
    for scale in scales:
        fit, settings = scale.line, f"{scale.values[0]} to {scale.values[-1]}"
        start = [scale.title, _SETTINGS[scale.setting], settings]
        rows.append(
            [*start, _ms(fit.fixed), _ms(fit.each), f"{fit.explained:.4f}", f"{fit.off:.0%}"]
        )
        if scale.setting == "depth":
            fit = scale.compiling
            numbers = f"{fit.fixed:.2f}", f"{fit.each:.3f}", f"{fit.explained:.4f}"
            compiling.append([*start, *numbers, f"{fit.off:.0%}"])
    heads = ["workload", "by", "values", "fixed", "each", "R²", "largest error"]
    return f"""# Training steps by batch size and depth

Written by `python benchmarks/steps --scaling --write`. {conditions.words()}

![Step times by batch size and depth](scaling.svg)

The straight line nearest to the times of a step, in milliseconds: a fixed time, and one for each
example or layer. R² is the share of the variance that the line explains; beside it, how far off a
point is at most.

{table(heads, rows)}

A cold start, in seconds, by depth:

{table(heads, compiling)}
"""


_SETTINGS = {"size": "batch size", "depth": "depth"}


def steps_table(results: Results, suite: Suite) -> str:
    names = _frameworks(results)
    rows = []
    for workload, found in results.items():
        row, ratio = suite.workloads[workload], to_best(found)
        end = ["", ""] if ratio is None else [f"**{ratio:.2f}**", str(row.goal)]
        start = [row.title, str(row.batch), row.optimiser]
        rows.append([*start, *(_ms(found[n].step) for n in names), *end])
    heads = ["workload", "batch", "optimiser", *(TITLES[n] for n in names)]
    heads += ["Weft / best peer", "goal"]
    return table(heads, rows)


def memory_table(results: Results, suite: Suite) -> str:
    names = _frameworks(results)
    rows = []
    for workload, found in results.items():
        ratio = against(found, "torch", _peak)
        rows.append(
            [
                suite.workloads[workload].title,
                *(_peak_and_base(found[n]) for n in names),
                "" if ratio is None else f"**{ratio:.2f}**",
            ]
        )
    heads = ["workload", *(TITLES[n] for n in names), f"Weft / PyTorch{_goal(suite.memory)}"]
    return table(heads, rows)


def _peak_and_base(measured: Measured) -> str:
    return _mb(measured.peak) + (f" ({_mb(measured.base)})" if measured.base else "")


def starts_table(results: Results, suite: Suite) -> str:
    names = _frameworks(results)
    rows = []
    for workload, found in results.items():
        ratio = against(found, "torch.compile", _cold)
        cells = [f"{found[n].cold:.2f}, {found[n].warm:.2f}" for n in names]
        end = "" if ratio is None else f"**{ratio:.2f}**"
        ready = f"**{found['weft'].ready:.2f}**"
        rows.append([suite.workloads[workload].title, *cells, end, ready])
    heads = []
    for name in names:
        imported = min(found[name].imported for found in results.values())
        heads.append(f"{TITLES[name]} ({imported:.2f})")
    last = f"cold: Weft / torch.compile{_goal(suite.cold)}"
    ready = f"warm: Weft's first step begins{_goal(suite.warm)}"
    return table(["workload: cold, warm", *heads, last, ready], rows)


def _goal(goal: float | None) -> str:
    return "" if goal is None else f" (goal {goal})"


def _frameworks(results: Results) -> list[str]:
    return list(next(iter(results.values())))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in heads[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, rule, *rows])


def _ms(seconds: float) -> str:
    """Milliseconds with three digits."""
    number = 1e3 * seconds
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:#.3g}".rstrip(".")


def _mb(count: float) -> str:
    return f"{count / 1e6:.0f}"


# -- figures ---------------------------------------------------------------------------------------


def steps_figure(results: Results, suite: Suite, file: Path) -> None:
    """A row for each workload, with a dot for each framework: its step over the best peer's."""

    def draw(axes: Axes) -> None:
        rows = range(len(results))
        for framework in _frameworks(results):
            ratios = [
                found[framework].step / min(m.step for m in peers(found).values())
                for found in results.values()
            ]
            size = 42 if framework == "weft" else 22
            label, colour = TITLES[framework], COLOURS[framework]
            axes.scatter(ratios, rows, size, color=colour, label=label, zorder=3)
        titled = [suite.workloads[name] for name in results]
        goals = [row.goal for row in titled]
        axes.scatter(goals, rows, 60, marker="|", color=GREY, label="goal for Weft")
        axes.axvline(1, color=GREY, linewidth=0.7)
        axes.set_xscale("log")
        ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10]
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.minorticks_off()
        axes.set_yticks(rows, [row.title for row in titled])
        axes.invert_yaxis()
        axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.5)
        axes.set_xlabel("time of a step, that of the fastest peer being 1")
        axes.legend(loc="upper center", bbox_to_anchor=(0.35, -0.16), ncol=5, columnspacing=1)

    _figure(file, (6.6, 3.6), [draw])


def scaling_figure(scales: Sequence[Scale], file: Path) -> None:
    """A panel for each scale: points, and the line nearest to them."""

    def panel(scale: Scale) -> Callable[[Axes], None]:
        def draw(axes: Axes) -> None:
            x, fit = np.array([0, scale.values[-1]]), scale.line
            axes.plot(x, 1e3 * (fit.fixed + fit.each * x), color=GREY, linewidth=1)
            axes.plot(scale.values, 1e3 * np.array(scale.steps), "o", color=COLOURS["weft"], ms=4)
            axes.set_title(scale.title, fontsize=8)
            axes.set_xlabel(_SETTINGS[scale.setting])
            axes.set_ylabel("ms a step")
            axes.set(xlim=(0, None), ylim=(0, None))

        return draw

    _figure(file, (7.2, 2.1 * -(-len(scales) // 3)), [panel(scale) for scale in scales])


def _figure(file: Path, size: tuple[float, float], draws: Sequence[Callable[[Axes], None]]) -> None:
    """Panels in rows of three; the same bytes each time for the same numbers."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        columns = min(3, len(draws))
        for i, draw in enumerate(draws):
            axes = figure.add_subplot(-(-len(draws) // columns), columns, i + 1)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(length=2, width=0.7)
            draw(axes)
        figure.savefig(file, metadata={"Date": None, "Creator": None})
