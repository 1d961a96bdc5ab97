"""`weft compile`: a spec at any stage of its way to running code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from weft.cli.options import Command, graph_option, json_option, set_option

if TYPE_CHECKING:
    from weft.frontends.dsl.syntax import File
    from weft.runtime.loading import Loaded
    from weft.runtime.session import Session

EXAMPLES = """
weft compile spec.weft                              the training step as a graph
weft compile spec.weft --emit python                the code that a training step runs
weft compile spec.weft --emit plan --graph predict  where each value of prediction lives
weft compile spec.weft --emit kernel                the loops of native code
weft compile spec.weft --emit asm -o step.s         and what the processor gets
weft compile spec.weft --emit cuda                  the kernels for a GPU, which need not be there
weft compile spec.weft --stop-after decompose       the graph as that pass leaves it
weft compile spec.weft --emit ast                   the spec as the parser sees it
"""

# Stages in the order of the way down; of code, with the backend that it is of.
EARLY, PLANNED = ("ast", "graph"), ("fused", "plan")
CODE = {
    "python": "numpy",
    "kernel": "tvm",
    "tir": "tvm",
    "llvm": "tvm",
    "asm": "tvm",
    "cuda": "cupy",
}
STAGES = (*EARLY, *PLANNED, *CODE)
GRAPHS = ("train_step", "eval_step", "predict", "init", "epoch_end")


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("spec")
@click.option(
    "--emit",
    type=click.Choice(STAGES),
    default="graph",
    show_default=True,
    help="The stage: syntax tree, graph, groups of fused operations, memory plan, NumPy code; "
    "of native code its kernels, tensor IR, LLVM's IR and assembly; CUDA.",
)
@graph_option(GRAPHS, "train_step")
@click.option("--stop-after", metavar="PASS", help="The graph after this pass; with --emit graph.")
@click.option(
    "--backend",
    metavar="NAME",
    help="For which backend; with --emit fused or plan, where it is numpy unless said.",
)
@click.option("-o", "--output", metavar="FILE", help="Write to a file instead of stdout.")
@set_option
@json_option
def command(
    spec: str,
    emit: str,
    graph: str,
    stop_after: str | None,
    backend: str | None,
    output: str | None,
    overrides: Mapping[str, str],
    json: bool,
) -> None:
    """Show SPEC at a stage of the compiler.

    The passes, in order: share, bind, pack, decompose, strip, optimise; then fusion, the memory
    plan, and the backend's code. Sizes are those of a full batch; `--emit graph` keeps the batch
    symbolic unless --stop-after says otherwise. The text is stable: the same spec always gives the
    same.
    """
    from weft.cli.output import print_json, write_text
    from weft.compiler.collector import no_cycles

    if stop_after is not None and emit != "graph":
        raise click.UsageError("--stop-after goes with --emit graph")
    if backend is not None and emit in EARLY:
        raise click.UsageError(
            f"--emit {emit} is the same for every backend: --backend goes with --emit fused or plan"
        )
    with no_cycles():
        text = emitted(spec, emit, graph, stop_after, backend, overrides)
    if output is not None:
        write_text(Path(output), text)
    if json:
        shown = {"path": output} if output is not None else {"text": text}
        print_json({"spec": spec, "emit": emit, "graph": graph, "stop_after": stop_after, **shown})
    elif output is None:
        click.echo(text, nl=False)


def emitted(
    spec: str,
    emit: str,
    graph: str,
    stop_after: str | None,
    backend: str | None,
    overrides: Mapping[str, str],
) -> str:
    """The text of a stage. Raises CompileError for a spec that doesn't compile."""
    if emit == "ast":
        from weft.frontends.dsl.parser import parse, read_source

        return tree(parse(read_source(spec)))
    from weft.runtime.loading import load_spec, read

    loaded = load_spec(*read(Path(spec)), overrides)
    if emit == "graph" and stop_after is None:
        from weft.compiler.text import print_graph

        return print_graph(getattr(loaded.program, graph))
    return _lowered(loaded, emit, graph, stop_after, backend or CODE.get(emit, "numpy"))


def _lowered(loaded: Loaded, emit: str, graph: str, stop_after: str | None, backend: str) -> str:
    from weft.compiler.errors import RunError, one_of
    from weft.compiler.passes.plan_text import print_plan
    from weft.compiler.pipeline import lower
    from weft.compiler.text import print_graph
    from weft.runtime.backends import backend_shown
    from weft.runtime.session import session_for

    chosen = backend_shown(backend)
    if emit in CODE and emit not in chosen.forms:
        raise RunError(
            f"the {chosen.name} backend makes no `{emit}`",
            expected=f"`--emit` {one_of(chosen.forms)}",
            hint=f"`{emit}` is code of `--backend {CODE[emit]}`",
        )
    session = session_for(loaded, chosen)
    batch = loaded.experiment.settings.batch
    if emit == "graph":
        target = session.target(graph, batch)
        return print_graph(lower(session.graph(graph), target, stop_after))
    if emit == "fused":
        return groups(session, graph, batch)
    plan = session.plan(graph, batch)
    return print_plan(plan) if emit == "plan" else chosen.listing(plan, emit)


def groups(session: Session, name: str, batch: int) -> str:
    """The lowered graph group by group: each is one kernel of a backend that fuses."""
    from weft.compiler.text import print_node

    plan = session.plan(name, batch)
    lines = [f"fused {name}: {len(plan.groups)} groups of {len(plan.order)} operations"]
    for number, group in enumerate(plan.groups):
        lines.append(f"\ngroup {number} {group.kind}")
        lines += [f"  {print_node(plan.graph, node)}" for node in group.nodes]
    return "\n".join(lines) + "\n"


def tree(file: File) -> str:
    """The syntax tree, a node a line: its class, what it states itself, and its place."""
    from dataclasses import fields

    from weft.frontends.dsl.syntax import Node, children

    lines: list[str] = []
    pending: list[tuple[Node, int]] = [(file, 0)]
    while pending:
        node, depth = pending.pop()
        stated = " ".join(
            f"{f.name}={getattr(node, f.name)!r}"
            for f in fields(node)
            if f.compare and isinstance(getattr(node, f.name), str | int | float | bool | None)
        )
        line, column = node.span.source.position(node.span.start)
        label = f"{type(node).__name__} {stated}".rstrip()
        lines.append(f"{'  ' * depth}{label}  @{line}:{column}")
        pending.extend((child, depth + 1) for child in reversed(list(children(node))))
    return "\n".join(lines) + "\n"
