"""`weft graph`: a picture of a spec's graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from weft.cli.options import Command, graph_option, json_option, set_option

EXAMPLES = """
weft graph spec.weft -o net.svg                     the model, as prediction runs it
weft graph spec.weft -o net.svg --depth 0           library functions as closed boxes
weft graph spec.weft -o step.svg --graph train_step the whole training step
weft graph spec.weft -o net.dot                     Graphviz's text; needs no extra package
"""

GRAPHS = ("predict", "train_step", "eval_step", "init", "epoch_end")


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("spec")
@click.option("-o", "--output", required=True, metavar="FILE", help="A `.svg` or `.dot` file.")
@graph_option(GRAPHS, "predict")
@click.option(
    "--depth",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="How deep library functions are opened, as frames around what they do.",
)
@set_option
@json_option
def command(
    spec: str, output: str, graph: str, depth: int, overrides: Mapping[str, str], json: bool
) -> None:
    """Draw a graph of SPEC, with the type of every value.

    In the picture a tooltip tells each operation's place in the spec. SVG is drawn by Graphviz
    through pygraphviz, which the extra `plot` installs.
    """
    from weft.cli.drawing import Drawing, svg
    from weft.cli.output import print_json, writable, write_text
    from weft.compiler.errors import RunError
    from weft.runtime.loading import load_spec, read

    path = writable(Path(output))
    if path.suffix not in (".svg", ".dot"):
        raise RunError(
            f"`{path.name}` is no kind of picture", expected="a name that ends in `.svg` or `.dot`"
        )
    program = load_spec(*read(Path(spec)), overrides).program
    drawing = Drawing(frozenset(program.states))
    text = drawing.graph(getattr(program, graph), depth)
    write_text(path, svg(text) if path.suffix == ".svg" else text)
    if json:
        found = {"spec": spec, "graph": graph, "path": output}
        print_json({**found, "nodes": drawing.nodes, "edges": drawing.edges})
    else:
        click.echo(
            f"drew {graph} of {spec} in {path}: {drawing.nodes} nodes, {drawing.edges} edges"
        )
