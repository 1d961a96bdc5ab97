"""`weft new`: a first spec, commented and ready to train."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import click

from weft.cli.options import Command, json_option
from weft.compiler.errors import RunError

EXAMPLES = """
weft new first.weft                            a classifier of handwritten digits
weft new pictures --template convolution       a folder pictures with pictures.weft
weft new prices --template regression          with a table to learn from, prices.csv
"""


@dataclass(frozen=True)
class Template:
    """A spec to begin with; `table` says that a CSV file belongs to it."""

    summary: str
    table: bool = False


TEMPLATES = {
    "classifier": Template("a perceptron that reads handwritten digits"),
    "convolution": Template("a convolutional network for pictures"),
    "regression": Template("a number from a CSV table", table=True),
    "gan": Template("two networks that play against each other"),
}


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("path")
@click.option(
    "--template",
    type=click.Choice(tuple(TEMPLATES)),
    default="classifier",
    show_default=True,
    help="; ".join(f"{name}: {t.summary}" for name, t in TEMPLATES.items()) + ".",
)
@json_option
def command(path: str, template: str, json: bool) -> None:
    """Write a first spec to PATH.

    PATH is a file that ends in `.weft`, or the folder to make one of the same name in. What is
    there already is never overwritten.
    """
    from weft.cli.output import print_json

    written = create(Path(path), template)
    spec = written[0]
    if json:
        print_json({"spec": str(spec), "files": [str(file) for file in written]})
        return
    for file in written:
        click.echo(f"wrote {file}")
    click.echo(f"\nWhat to do next:\n  weft check {spec}\n  weft train {spec}")


def create(path: Path, template: str) -> list[Path]:
    """Write the files of a template, all or none. Raises RunError for what is there already."""
    from weft.runtime.files import write_atomically

    spec = path if path.suffix == ".weft" else path / f"{_stem(path)}.weft"
    table = spec.with_suffix(".csv")
    texts = {spec: _spec(template, spec, table)}
    if TEMPLATES[template].table:
        texts[table] = houses()
    for file in texts:
        if file.exists() or file.is_symlink():
            raise RunError(f"`{file}` is there already", hint="choose another name")
    try:
        spec.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"`{error.filename or spec}` cannot be written", found=reason) from None
    try:
        for file, text in texts.items():
            write_atomically(file, text.encode())
    except RunError:
        for file in texts:
            file.unlink(missing_ok=True)
        raise
    return list(texts)


def _stem(path: Path) -> str:
    """The name of a folder, that of `.` among them."""
    return path.name or path.resolve().name or "experiment"


def _spec(template: str, spec: Path, table: Path) -> str:
    from importlib import resources

    folder = resources.files("weft.cli.templates")
    text = folder.joinpath(f"{template}.weft").read_text(encoding="utf-8")
    # A name with a line break or a quote would end the comment or the text that it stands in.
    words = {"name": spec.stem, "file": spec.name, "table": table.name}
    safe = {key: re.sub(r'[\x00-\x1f"\\]', "_", word) for key, word in words.items()}
    return re.sub(r"\{(name|file|table)\}", lambda found: safe[found[1]], text)


def houses() -> str:
    """A made-up table: price = 2 width height (1 - age / 100) + 20, and a little noise."""
    lines = ["width,height,age,price"]
    state = 1
    for _ in range(200):
        drawn = []
        for _ in range(4):
            state = state * 48271 % 0x7FFFFFFF  # Park and Miller's generator: the same everywhere
            drawn.append(state / 0x7FFFFFFF)
        width, height, age = 5 + 5 * drawn[0], 5 + 5 * drawn[1], 50 * drawn[2]
        price = 2 * width * height * (1 - age / 100) + 20 + 4 * (drawn[3] - 0.5)
        lines.append(f"{width:.2f},{height:.2f},{age:.0f},{price:.1f}")
    return "\n".join(lines) + "\n"
