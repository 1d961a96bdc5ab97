"""How training shows its progress: a live line on a terminal, one plain line an epoch elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from weft.cli.failures import show
from weft.cli.output import amount, metric, seconds
from weft.runtime.reporting import Compiling, Epoch, Progress, Reporter, Result, Silent, Start

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


def reporter(stream: TextIO, quiet: bool) -> Reporter:
    """What suits the stream."""
    if quiet:
        return Warnings()
    return Live(stream) if stream.isatty() else Plain(stream)


class Warnings(Silent):
    """Warnings alone."""

    def on_start(self, start: Start) -> None:
        _warn(start)


class Plain:
    """A line at the start and one for each epoch."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.epochs = 0

    def on_start(self, start: Start) -> None:
        _warn(start)
        self.epochs = start.epochs
        self._say(headline(start))

    def on_compile(self, compiling: Compiling) -> None:
        self._say(made_first(compiling))

    def on_step(self, progress: Progress) -> None:
        pass

    def on_epoch(self, epoch: Epoch) -> None:
        self._say(epoch_line(epoch, self.epochs))

    def on_end(self, result: Result) -> None:
        self._say(outcome(result))

    def _say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


class Live:
    """A line for each finished epoch, and below them a bar that moves."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self.console: Console = Console(file=stream, highlight=False)
        self.bar: Bar | None = None
        self.task: TaskID | None = None
        self.epochs = 0

    def on_start(self, start: Start) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        _warn(start)
        self.epochs = start.epochs
        self.console.print(headline(start), style="bold", markup=False, soft_wrap=True)
        self.bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[told]}", markup=False),
            console=self.console,
            transient=True,
            auto_refresh=False,
        )
        self.task = self.bar.add_task(
            f"epoch {1 + start.step // start.steps_per_epoch}/{start.epochs}",
            total=start.steps,
            completed=start.step,
            told="",
        )
        self.bar.start()

    def on_compile(self, compiling: Compiling) -> None:
        self.console.print(made_first(compiling), style="dim", markup=False, soft_wrap=True)

    def on_step(self, progress: Progress) -> None:
        told = (
            f"{_named(progress.metrics)}  {amount(progress.steps_per_second)} steps/s"
            f"  {seconds(progress.seconds_left)} left"
        )
        self._move(progress.step, f"epoch {progress.epoch}/{self.epochs}", told)

    def on_epoch(self, epoch: Epoch) -> None:
        style = "" if epoch.best else "dim"
        line = epoch_line(epoch, self.epochs)
        self.console.print(line, style=style, markup=False, soft_wrap=True)
        self._move(epoch.step, f"epoch {min(epoch.epoch + 1, self.epochs)}/{self.epochs}", "")

    def on_end(self, result: Result) -> None:
        self.close()
        self.console.print(outcome(result), style="bold", markup=False)

    def close(self) -> None:
        """Take the bar away, also when training ended with an error."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _move(self, step: int, description: str, told: str) -> None:
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=step, description=description, told=told)
            self.bar.refresh()


def _warn(start: Start) -> None:
    for warning in start.warnings:
        show(warning)


def headline(start: Start) -> str:
    """What is about to be trained."""
    what = f"{amount(start.parameters)} parameters, {start.steps} steps"
    if start.steps_per_epoch > 1:
        what += f" in {start.epochs} epoch{'s' * (start.epochs > 1)}"
    begun = f", from step {start.step}" if start.step else ""
    return f"training {start.name}: {what}{begun}, on {start.backend}"


def made_first(compiling: Compiling) -> str:
    """What is compiled before the first step."""
    words = f"compiling for batches of {_numbers(compiling.train)}"
    if compiling.evaluation:
        words += f", and of {_numbers(compiling.evaluation)} for evaluation"
    return words


def _numbers(sizes: Sequence[int]) -> str:
    return " and ".join(map(str, sizes)) if len(sizes) < 3 else ", ".join(map(str, sizes))


def epoch_line(epoch: Epoch, epochs: int) -> str:
    """An epoch's means: of its steps, then on the validation split; `*` marks the best yet."""
    width = len(str(epochs))
    line = f"epoch {epoch.epoch:>{width}}/{epochs}  {_named(epoch.train)}"
    if epoch.valid:
        line += f"  | valid {_named(epoch.valid)}"
    return f"{line}  {seconds(epoch.seconds)}{' *' if epoch.best and epoch.valid else ''}"


def outcome(result: Result) -> str:
    """How it ended."""
    how = "stopped early" if result.stopped_early else "finished"
    line = f"{how} after {result.steps} steps, {result.epochs} epoch{'s' * (result.epochs != 1)}"
    if result.best_step != result.steps:
        line += f"; the best parameters are those of epoch {result.best_epoch}"
    return line


def _named(metrics: Mapping[str, float]) -> str:
    return " ".join(f"{name} {metric(value)}" for name, value in metrics.items())
