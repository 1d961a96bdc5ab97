"""A memory plan as text: what `weft compile --emit plan` prints."""

from __future__ import annotations

from weft.compiler.graph import Node
from weft.compiler.passes.memory import Buffer, Plan


def print_plan(plan: Plan) -> str:
    """Sizes, the table of buffers with lifetimes and offsets, aliases, and the state's updates."""
    lines = [
        f"plan {plan.graph.name}",
        f"  steps {len(plan.order) - len(plan.views)}",
        f"  arena {plan.arena_bytes} bytes",
        f"  peak {plan.peak_bytes} bytes",
        "",
        "  buffer          kind      bytes       offset      live       holds",
    ]
    lines += [_row(buffer, plan) for buffer in plan.buffers if buffer.kind != "register"]
    names = {node: f"%{i}" for i, node in enumerate(plan.order)}
    names |= {node: node.name for node in plan.graph.inputs}
    if plan.views:
        lines += ["", "  views"]
        for node in plan.order:
            if node in plan.views:
                place = plan.places[node]
                layout = place.layout
                lines.append(
                    f"    {names[node]} = {node.op.name} of {names.get(node.inputs[0], 'constant')}"
                    f" in {place.buffer.name}[{layout.offset}] {node.type} strides {layout.strides}"
                )
    if plan.bound:
        lines += ["", "  state"]
        late = {store.name: store for store in plan.stores}
        for name in plan.graph.output_names:
            if name in plan.bound:
                how = "written in place"
                if name in late:
                    how = "saved and copied" if late[name].early else "copied"
                    how += f" at the end from {names.get(late[name].source, 'constant')}"
                elif plan.graph.named_outputs[name].op.name == "input":
                    how = "unchanged"
                lines.append(f"    {name}: {how}")
    lines += ["", "  live at the arena's peak"]
    lines += [f"    {b.name} {b.bytes} bytes  {_holds(b)}" for b in plan.live_at_peak]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _row(buffer: Buffer, plan: Plan) -> str:
    inside = buffer.kind in ("arena", "scratch")
    offset = str(buffer.offset) if inside else "-"
    live = f"{buffer.first}..{buffer.last}" if inside else "always"
    name = f"{buffer.name:<15}"
    return f"  {name} {buffer.kind:<9} {buffer.bytes:<11} {offset:<11} {live:<10} {_holds(buffer)}"


def _holds(buffer: Buffer) -> str:
    return ", ".join(_describe(node) for node in buffer.nodes)


def _describe(node: Node) -> str:
    place = f" @{node.span}" if node.span is not None else ""
    return f"{node.op.name} {node.type}{place}"
