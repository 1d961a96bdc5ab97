"""Draws the figures of docs/library.md: activations with their derivatives, schedules, and ways.

What is drawn is what Weft computes: an activation as the prediction of a spec, a schedule as the
rate of each step of a training, the ways of optimisers as the parameters of examples/valley.weft.
The files are the same bytes each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weft.compiler.errors import Source
from weft.runtime.backends import backend_named
from weft.runtime.loading import Loaded, load_spec
from weft.runtime.session import Session

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray

# Middle tones, which are legible on white and on black; the background is left to the page.
GREY, BLUE, ORANGE = "#7d8590", "#2f81f7", "#e3702c"
STYLE = {
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "lines.linewidth": 1.6,
    "savefig.transparent": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "weft",
    "xtick.color": GREY,
    "ytick.color": GREY,
}


@dataclass(frozen=True)
class Curve:
    """How an activation is drawn: a call of it on an input `x` of `units` units, and the window."""

    call: str
    units: int = 1
    x: tuple[float, float] = (-4, 4)
    y: tuple[float, float] = (-1.6, 4.2)


LEARNED = "init = uniform_between(-0.6, 0.6)"

# Activations that are no plain function of one number: how they become one.
CURVES = {
    "leaky_relu": Curve("leaky_relu(x, 0.1)"),
    "relu6": Curve("relu6(x)", x=(-4, 9), y=(-1.6, 7.2)),
    "log_sigmoid": Curve("log_sigmoid(x)", y=(-4.2, 1.6)),
    "softmax": Curve("softmax(concat([x, 0 * x]))[..., 0:1]"),
    "softmin": Curve("softmin(concat([x, 0 * x]))[..., 0:1]"),
    "log_softmax": Curve("log_softmax(concat([x, 0 * x]))[..., 0:1]", y=(-4.2, 1.6)),
    "glu": Curve("glu(concat([x, x]))"),
    "prelu_per_channel": Curve(f"prelu_per_channel(x, {LEARNED})", units=3),
    "prelu_per_unit": Curve(f"prelu_per_unit(x, {LEARNED})", units=3),
    "maxout": Curve("maxout(x, 1, pieces = 4, init = normal)"),
    "rbf": Curve("rbf(x, 1, init = zeros)"),
}

# What the figures of those show, for readers.
CAPTIONS = {
    "leaky_relu": "With the slope 0.1.",
    "softmax": "The first of softmax(x, 0).",
    "softmin": "The first of softmin(x, 0).",
    "log_softmax": "The first of log_softmax(x, 0).",
    "glu": "With a = b = x.",
    "prelu_per_channel": "Three channels, each with a slope of its own.",
    "prelu_per_unit": "Three units, each with a slope of its own.",
    "maxout": "One unit of four pieces, for one number x.",
    "rbf": "One unit, with c = 0 and s = 1.",
}

# The calls whose rates are drawn, over 200 steps in 10 epochs.
SCHEDULES = {
    "cosine": "cosine(1, warmup = 1 epoch)",
    "linear": "linear(1, warmup = 1 epoch)",
    "step_decay": "step_decay(1, every = 3 epochs, factor = 0.5)",
    "milestones": "milestones(1, [4 epochs, 8 epochs], factor = 0.3)",
    "piecewise": "piecewise([0.2, 1, 0.5], at = [2 epochs, 6 epochs])",
    "exponential": "exponential(1, k = 0.4, per = 1 epoch)",
    "inverse_time": "inverse_time(1, k = 0.8, per = 1 epoch)",
    "inverse": "inverse(10, t0 = 9)",
    "inverse_root": "inverse_root(1, warmup = 1 epoch)",
    "transformer": "transformer(512, warmup = 40)",
    "polynomial": "polynomial(1, power = 2, warmup = 1 epoch)",
    "triangular": "triangular(0.1, 1, half = 1 epoch)",
    "triangular_halving": "triangular_halving(0.1, 1, half = 1 epoch)",
    "cosine_restarts": "cosine_restarts(1, every = 2 epochs, factor = 2)",
    "one_cycle": "one_cycle(1)",
    "one_cycle_linear": "one_cycle_linear(1)",
    "range_test": "range_test(1e-4, 1)",
    "plateau": "plateau(1, valid.loss, factor = 0.5, patience = 1)",
    "warmup": "warmup(1, 4 epochs)",
    "hold": "hold(1, 5 epochs) then 0.3",
    "during": "during(cosine(1), 6 epochs) then 0.2",
    "sequence": "warmup(1, 2 epochs) then cosine(1)",
    "restarts": "restarts(linear(1), 2 epochs)",
}

# The optimisers whose ways are drawn together, under the name of the example.
VALLEY = "valley"
LEVELS = np.arange(0.15, 2.6, 0.4) ** 2
WALKERS = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam")

ACTIVATION_SPEC = """
data points {{
  source = embedded("ring")
  x: f64[{units}] = broadcast(point[:, 0:1], [size(point, 0), {units}])
}}
layer shown(x: float[B, U]) = {call}
layer beside(x: float[B, U]) = x |> dense(1)
model net = shown()
model other = beside()
train {{
  data      = points.batch(1)
  precision = f64
  minimize mean(other(x)) + 0 * mean(net(x)) with sgd(0)
  predict   = {{ value: net(x), slope: grad(sum(net(x)), x) }}
  steps     = 1
}}
"""

# The parameter is the rate itself. What `valid.loss` would be is given to the end of each epoch.
SCHEDULE_SPEC = """
data points {{
  source = embedded("ring")
  x: f32[2] = point
  split = {{ train: 20, valid: 1 }}
}}
layer shown(x: float[B, I]) {{
  param rate: float[] ~ zeros
  rate * x
}}
model net = shown()
optimizer take(lr: float) {{
  theta <- lr + 0 * theta
}}
train {{
  data      = points.batch(1)
  precision = f64
  minimize mean(net(x)) with take({call})
  epochs    = 10
}}
"""
EPOCHS, STEPS = 10, 200
LOSSES = (1, 0.7, 0.6, 0.6, 0.6, 0.5, 0.5, 0.5, 0.45, 0.45)


def write(folder: Path, names: Sequence[str]) -> None:
    """Draw the figures of these names into the folder, and remove all others there."""
    folder.mkdir(exist_ok=True)
    for file in folder.glob("*.svg"):
        if file.stem not in names:
            file.unlink()
    for name in names:
        draw(name, folder / f"{name}.svg")


def draw(name: str, file: Path) -> None:
    """One figure, in the format of the file's ending."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.2) if name == VALLEY else (3.0, 2.2), layout="constrained")
        if name == VALLEY:
            _draw_ways(figure)
            figure.savefig(file, metadata={"Date": None, "Creator": None})
            return
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=2, width=0.7)
        if name in SCHEDULES:
            _draw_schedule(SCHEDULES[name], axes)
        else:
            _draw_activation(CURVES.get(name, Curve(f"{name}(x)")), axes)
        figure.savefig(file, metadata={"Date": None, "Creator": None})


# -- activations -----------------------------------------------------------------------------------


def _draw_activation(curve: Curve, axes: Axes) -> None:
    x = np.linspace(*curve.x, 401)
    value, slope = activation(curve, x)
    axes.axhline(0, color=GREY, linewidth=0.5, alpha=0.6)
    axes.axvline(0, color=GREY, linewidth=0.5, alpha=0.6)
    axes.plot(x, _broken(slope), color=ORANGE, linewidth=1.1)
    axes.plot(x, value, color=BLUE)
    axes.set(xlim=curve.x, ylim=curve.y, aspect="equal")
    axes.set_xticks(_even(curve.x))
    axes.set_yticks(_even(curve.y))


def _even(window: tuple[float, float]) -> list[int]:
    """The even numbers in a window."""
    return [n for n in range(-10, 11, 2) if window[0] <= n <= window[1]]


def _broken(slope: Array) -> Array:
    """The derivative with a gap where it jumps."""
    jumps = np.abs(np.diff(slope, axis=0)) > 0.08
    return np.where(np.vstack([jumps, np.zeros_like(jumps[:1])]), np.nan, slope)


def activation(curve: Curve, x: Array) -> tuple[Array, Array]:
    """The values and derivatives at the points x, a column for each unit."""
    text = ACTIVATION_SPEC.format(call=curve.call, units=curve.units)
    session = _session(text)
    points = np.repeat(x[:, None], curve.units, axis=1)
    found = session.run("predict", {"x": points}, len(x))
    return found["value"], found["slope"]


# -- schedules -------------------------------------------------------------------------------------


def _draw_schedule(call: str, axes: Axes) -> None:
    found = rates(call)
    axes.plot(np.arange(STEPS) / STEPS, found, color=BLUE, drawstyle="steps-post")
    axes.set(xlim=(0, 1), ylim=(0, 1.05 * max(found)))
    axes.set_xticks([0, 0.5, 1], ["0", "50%", "100%"])
    axes.set_yticks([0, max(found)], ["0", f"{max(found):.3g}"])
    axes.set_box_aspect(0.62)


def rates(call: str) -> list[float]:
    """The rate of each step of a training."""
    session = _session(SCHEDULE_SPEC.format(call=call))
    found = []
    for loss in LOSSES:
        for _ in range(STEPS // EPOCHS):
            session.run("train_step", {"x": np.ones((1, 2))}, 1)
            found.append(float(session.tensors()["net.rate"]))
        session.run("epoch_end", {"valid.loss": np.array(float(loss))})
    return found


# -- the ways of optimisers ------------------------------------------------------------------------


def _draw_ways(figure: Figure) -> None:
    u, v = np.meshgrid(np.linspace(-0.6, 10, 81), np.linspace(-0.3, 4.2, 41))
    height = (u - 7) ** 2 / 20 + (v - 2) ** 2
    grid = figure.subplots(3, 2, sharex=True, sharey=True)
    for axes, (name, way) in zip(grid.flat, ways(), strict=True):
        axes.contour(u, v, height, levels=LEVELS, colors=GREY, linewidths=0.4)
        axes.plot(*way.T, color=BLUE, marker=".", markersize=3, linewidth=0.9)
        axes.plot(7, 2, color=ORANGE, marker="+")
        axes.set_title(name, loc="left", color=GREY)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set(xticks=[0, 7], yticks=[0, 2])


def ways() -> Iterator[tuple[str, Array]]:
    """Where each optimiser is after each of 40 steps."""
    text = (Path(__file__).parents[1] / "examples" / f"{VALLEY}.weft").read_text(encoding="utf-8")
    loaded = load_spec(Source(f"{VALLEY}.weft", text), Path())
    session, arrays, places = _begun(loaded), loaded.fields.arrays, []
    for _ in range(41):
        places.append({name: tensor.copy() for name, tensor in session.tensors().items()})
        session.run("train_step", arrays, len(arrays["y"]))
    for number, name in enumerate(WALKERS):
        plane = f"net.plane_{number + 1}" if number else "net.plane"
        yield name, np.stack([place[f"{plane}.w"] for place in places])


def _session(text: str) -> Session:
    return _begun(load_spec(Source("figure.weft", text), Path()))


def _begun(loaded: Loaded) -> Session:
    session = Session(loaded.program, backend_named("numpy"))
    session.initialise(loaded.experiment.settings.seed)
    return session
