"""A memory plan as text: what `weft compile --emit plan` prints."""

from __future__ import annotations

from collections.abc import Mapping

from weft.compiler.graph import Node
from weft.compiler.passes.views import contiguous
from weft.compiler.plan import Buffer, Plan


def print_plan(plan: Plan) -> str:
    """Sizes; buffers with lifetimes and offsets; steps with places; what becomes of state."""
    names = {node: f"%{i}" for i, node in enumerate(plan.order)}
    names |= {node: f'"{node.name}"' for node in plan.graph.inputs}
    names |= {n: plan.places[n].buffer.name for n in plan.graph.nodes if n not in names}
    lines = [
        f"plan {plan.graph.name}",
        f"  steps {len(plan.order) - len(plan.views)}, views {len(plan.views)}",
        f"  arena {plan.arena_bytes} bytes",
        f"  peak {plan.peak_bytes} bytes with state, inputs, constants and results",
        "",
        "buffers",
        f"  {'name':<16}{'kind':<10}{'bytes':<10}{'offset':<10}{'live':<10}type",
    ]
    lines += [_row(b) for b in plan.buffers if b.kind != "register"]
    lines += ["", "steps"]
    lines += [_step(plan, node, names) for node in plan.order]
    if plan.bound:
        lines += ["", "state", *_states(plan, names)]
    if plan.live_at_peak:
        lines += ["", "live when the arena is fullest"]
        lines += [f"  {b.name}: {b.bytes} bytes, {_places(b)}" for b in plan.live_at_peak]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _row(buffer: Buffer) -> str:
    inside = buffer.kind in ("arena", "scratch")
    offset = str(buffer.offset) if inside else "-"
    live = f"{buffer.first}..{buffer.last}" if inside else "always"
    columns = f"{buffer.name:<15} {buffer.kind:<9} {buffer.bytes:<9} {offset:<9} {live:<9}"
    return f"  {columns} {buffer.nodes[0].type}"


def _step(plan: Plan, node: Node, names: Mapping[Node, str]) -> str:
    operands = ", ".join(names[i] for i in node.inputs)
    text = f"{names[node]} = {node.op.name}({operands}) : {node.type}"
    place = plan.places.get(node)
    if place is None:
        return f"  {text:<60} inside of its kernel"
    layout = place.layout
    where = place.buffer.name + (f"[{layout.offset}]" if layout.offset else "")
    if layout.strides != contiguous(layout.shape).strides:
        where += f" strides {layout.strides}"
    arrow = "is" if node in plan.views else "in"
    return f"  {text:<60} {arrow} {where}"


def _states(plan: Plan, names: Mapping[Node, str]) -> list[str]:
    late = {store.name: store for store in plan.stores}
    lines = []
    for name in sorted(plan.bound):
        value = plan.graph.named_outputs.get(name)
        if value is None or value is plan.graph.named_inputs[name]:
            how = "only read"
        elif name not in late:
            how = f"{names[value]}, written in place"
        elif late[name].early:
            how = f"{names[value]}, saved and copied at the end"
        else:
            how = f"{names[value]}, copied at the end"
        lines.append(f'  "{name}": {how}')
    return lines


def _places(buffer: Buffer) -> str:
    """The operations whose results the buffer holds, with their lines of the specification."""
    return ", ".join(
        node.op.name + (f" at {node.span}" if node.span is not None else "")
        for node in buffer.nodes
    )
