"""A graph as a picture: DOT text, and through Graphviz SVG.

A library function that the graph calls is a box of its own, or, where it is opened, a frame around
what it does. Constants and broadcasts aren't drawn: a number stands in the label of its reader.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from weft.compiler.errors import RunError
from weft.compiler.graph import Graph, Node
from weft.compiler.ops import Kind

_FONT = "Helvetica,Arial,sans-serif"
_COLOURS = {
    Kind.CONTRACTION: "#fde2c4",
    Kind.WINDOW: "#fde2c4",
    Kind.REDUCTION: "#d9ead3",
    Kind.ELEMENTWISE: "#ffffff",
    Kind.MOVEMENT: "#f3f3f3",
    Kind.INDEXING: "#f3f3f3",
    Kind.ORDER: "#f3f3f3",
    Kind.CALL: "#e6e0f3",
    Kind.SOURCE: "#f3f3f3",
}
_HIDDEN = frozenset({"input", "constant", "broadcast_in_dim"})
_INPUT, _STATE, _OUTPUT = "#cfe2f3", "#eeeeee", "#cfe2f3"


@dataclass
class Drawing:
    """Lines of DOT, grown node by node.

    Edges come after all nodes: one that stands inside of a frame would draw its ends into it.
    """

    states: frozenset[str]
    lines: list[str] = field(default_factory=list)
    arrows: list[str] = field(default_factory=list)
    names: dict[Node, str] = field(default_factory=dict)
    actual: dict[Node, Node] = field(default_factory=dict)  # for the inputs of opened bodies
    nodes: int = 0
    frames: int = 0

    @property
    def edges(self) -> int:
        return len(self.arrows)

    def graph(self, graph: Graph, depth: int) -> str:
        """The DOT text; composites are opened down to `depth`."""
        for node in graph.inputs:
            # A state with one reader is drawn beside it.
            if node.name not in self.states or len(graph.users[node]) > 1:
                self._input(node, "  ")
        self._body(graph, depth, "  ")
        for name, node in graph.named_outputs.items():
            updated = name in graph.named_inputs
            label = [f"{name} \N{LEFTWARDS ARROW}"] if updated else [name, str(node.type)]
            made = self._node(label, _STATE if updated else _OUTPUT, "ellipse", None, "  ")
            self._edge(node, made, "  ")
        return "\n".join(
            [
                f"digraph {_quoted(graph.name)} {{",
                f'  graph [rankdir="TB", fontname="{_FONT}", fontsize="11", ranksep="0.35"];',
                f'  node [fontname="{_FONT}", fontsize="11", height="0.3", style="filled"];',
                '  edge [color="#666666", arrowsize="0.6"];',
                *self.lines,
                *self.arrows,
                "}",
                "",
            ]
        )

    def _body(self, graph: Graph, depth: int, margin: str) -> None:
        for node in graph.nodes:
            if node.op.name in _HIDDEN:
                continue
            if node.op.name == "call" and depth > 0 and _is_worth_opening(node):
                self._frame(node, depth, margin)
            else:
                colour = _COLOURS[node.op.kind]
                self.names[node] = self._node(_label(node), colour, "box", node, margin)
                for operand in node.inputs:
                    self._edge(operand, self.names[node], margin)

    def _frame(self, call: Node, depth: int, margin: str) -> None:
        """A composite as a frame around its body. Equal calls share a body; each draws its own."""
        body: Graph = call.attributes["body"]
        sources = [self._source(operand) for operand in call.inputs]
        outer = self.names, self.actual
        self.names = {n: name for n, name in self.names.items() if n not in set(body.nodes)}
        self.actual = self.actual | dict(zip(body.inputs, sources, strict=True))
        self.frames += 1
        self.lines += [
            f"{margin}subgraph {_quoted(f'cluster_{self.frames}')} {{",
            f"{margin}  label={_quoted(str(call.attributes['name']))};",
            f'{margin}  style="rounded"; color="#8e7cc3"; fontcolor="#674ea7";',
        ]
        self._body(body, depth - 1, f"{margin}  ")
        self.lines.append(f"{margin}}}")
        result = self.names.get(self._source(body.outputs[0]))
        drawn = {n: name for n, name in self.names.items() if n.op.name == "input"}
        self.names, self.actual = {**outer[0], **drawn}, outer[1]
        if result is not None:
            self.names[call] = result

    def _input(self, node: Node, margin: str) -> None:
        state = node.name in self.states
        colour, shape = (_STATE, "ellipse") if state else (_INPUT, "box")
        self.names[node] = self._node([node.name, str(node.type)], colour, shape, None, margin)

    def _node(
        self, label: Iterable[str], colour: str, shape: str, node: Node | None, margin: str
    ) -> str:
        name = f"n{self.nodes}"
        self.nodes += 1
        settings = {
            "label": "\n".join(label),
            "shape": shape,
            "fillcolor": colour,
            "tooltip": str(node.span) if node is not None and node.span else "",
        }
        if shape == "box":
            settings["style"] = "filled,rounded"
        text = ", ".join(f"{key}={_quoted(value)}" for key, value in settings.items() if value)
        self.lines.append(f"{margin}{name} [{text}];")
        return name

    def _edge(self, operand: Node, target: str, margin: str) -> None:
        source = self._source(operand)
        if source.op.name == "input" and source not in self.names:
            self._input(source, margin)
        if source in self.names:
            self.arrows.append(f"  {self.names[source]} -> {target};")

    def _source(self, node: Node) -> Node:
        """The node whose picture stands for this one."""
        shown = _shown(node)
        return _shown(self.actual.get(shown, shown))


def svg(dot: str) -> str:
    """The picture of a DOT text. Raises RunError without the package that draws."""
    try:
        import pygraphviz
    except ImportError:
        raise RunError(
            "drawing needs pygraphviz, which is not installed",
            hint='`pip install "weft[plot]"`; or write a `.dot` file, which needs nothing',
        ) from None
    try:
        drawn = pygraphviz.AGraph(string=dot).draw(format="svg", prog="dot")
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise RunError(
            "Graphviz can't draw the graph", found=reason[-1] if reason else type(error).__name__
        ) from None
    return bytes(drawn).decode()


def _shown(node: Node) -> Node:
    """The node whose picture stands for this one: broadcasts are their operand."""
    while node.op.name == "broadcast_in_dim":
        node = node.inputs[0]
    return node


def _is_worth_opening(call: Node) -> bool:
    body: Graph = call.attributes["body"]
    return sum(n.op.name not in _HIDDEN for n in body.nodes) > 1


def _label(node: Node) -> list[str]:
    """The op with its literal operands, then the type."""
    if node.op.name == "call":
        title = str(node.attributes["name"])
    else:
        words = ["\N{MIDDLE DOT}"] * len(node.inputs)
        for slot, operand in enumerate(node.inputs):
            literal = _shown(operand)
            if literal.op.name == "constant":
                words[slot] = _literal(literal)
        has_literal = any(word != "\N{MIDDLE DOT}" for word in words)
        title = f"{node.op.name}({', '.join(words)})" if has_literal else node.op.name
    factors = node.attributes.get("factors")
    return [title if factors is None else f"{title}, factors in {factors}", str(node.type)]


def _literal(node: Node) -> str:
    value = node.attributes["value"]
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:20]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
