"""What commands share: help with examples, the experiment, `--json`, the backend and threads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from weft.api import Experiment

F = TypeVar("F", bound=Callable[..., Any])
SPLITS = ("train", "valid", "test")


class Command(click.Command):
    """A command whose help ends with examples: lines `command    what it does`."""

    def __init__(self, *args: Any, examples: str = "", **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.examples = inspect.cleandoc(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if any(p.name == "overrides" for p in self.params):
                hint = _as_setting(error, given)
                if hint is not None:
                    message = f"{error.message} Did you mean `{hint}`?"
                    raise click.NoSuchOption(error.option_name, message, ctx=ctx) from None
            raise

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


json_option = click.option(
    "--json", is_flag=True, help="For machines: one JSON object as the last line of stdout."
)


def set_option(function: F) -> F:
    """`--set key=value`, repeatable; the command gets `overrides`, a mapping of texts."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_pairs("hidden=512"),
        help="Set a `let`, an argument of a model, or `epochs`, `steps`, `seed`, `precision`. "
        "VALUE is written as in a spec: 512, 1e-3, true, relu, [64, 64]. Repeatable.",
    )(function)


def data_option(function: F) -> F:
    """`--data name=PATH`, repeatable; the command gets `data`, a mapping of paths."""
    return click.option(
        "--data",
        "data",
        multiple=True,
        metavar="NAME=PATH",
        callback=_pairs("imagenet=imagenet.npz"),
        help="The arrays of a `data` block without a source: a .npz file, or a folder with a .npy "
        "file for each field. Repeatable.",
    )(function)


def experiment_options(function: Callable[..., None]) -> Callable[..., None]:
    """SPEC, `--set` and `--data`; the command gets `load`, which gives the experiment they say."""

    @wraps(function)
    def command(
        spec: str, overrides: Mapping[str, str], data: Mapping[str, str], **others: Any
    ) -> None:
        def load() -> Experiment:
            import weft

            return weft.load(Path(spec), data, **overrides)

        function(load=load, **others)

    return click.argument("spec")(set_option(data_option(command)))


def graph_option(graphs: Sequence[str], default: str) -> Callable[[F], F]:
    """`--graph NAME`: one of a program's graphs."""
    return click.option(
        "--graph",
        type=click.Choice(graphs),
        default=default,
        show_default=True,
        help="Which graph of the program.",
    )


def backend_option(default: str | None, shown: str | None = None) -> Callable[[F], F]:
    """`--backend NAME`: what runs the graphs; a default of None is what `shown` says it is."""
    return click.option(
        "--backend",
        default=default,
        show_default=shown or True,
        metavar="NAME",
        help="What runs the graphs: numpy, tvm, or auto for the fastest that can run here.",
    )


def threads_option(function: F) -> F:
    """`--threads N`: how many threads a step uses; in force while the command runs."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        expose_value=False,
        callback=_use_threads,
        help="How many threads a step uses, instead of one for each core.",
    )(function)


def _use_threads(ctx: click.Context, parameter: click.Parameter, count: int | None) -> None:
    if count is not None:
        from weft.backends.threads import THREADS

        THREADS.use(count)
        ctx.call_on_close(lambda: THREADS.use(None))


def _as_setting(error: click.NoSuchOption, given: Sequence[str]) -> str | None:
    """`--set epochs=3` for `--epochs 3`; None where it is more like an option that there is."""
    from weft.frontends.dsl.elaborate import OVERRIDABLE

    key = error.option_name.removeprefix("--").replace("-", "_")
    if not key.isidentifier() or (error.possibilities and key not in OVERRIDABLE):
        return None
    for place, text in enumerate(given):
        option, equals, value = text.partition("=")
        if option == error.option_name:
            behind = value if equals else "".join(given[place + 1 : place + 2])
            if behind and not behind.startswith("-"):
                return f"--set {key}={behind}"
    return f"--set {key}=..."


def _pairs(
    example: str,
) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], Mapping[str, str]]:
    """The text that each `key=value` of an option gives its key."""

    def pairs(
        ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]
    ) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for text in given:
            key, equals, said = (part.strip() for part in text.partition("="))
            if not equals or not key.isidentifier():
                raise click.BadParameter(
                    f"`{text}` is not {parameter.metavar}, such as {example}", ctx=ctx
                )
            if key in found:
                raise click.BadParameter(f"`{key}` is set twice", ctx=ctx)
            found[key] = said
        return found

    return pairs
