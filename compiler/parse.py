"""Reads the text of a graph, in the form that `text` prints.

    file      = graph+                                   the last one is the result
    graph     = "graph" NAME "(" [NAME ":" type, ...] ")" "{" node* return "}"
    node      = "%" INT "=" NAME "(" [reference, ...] ")" (NAME "=" value)* ":" type
    return    = "return" [NAME "=" reference, ...]
    reference = "%" INT | NAME                           NAME: plain, or quoted as in JSON
    type      = NAME "[" [value, ...] "]"
    value     = ["-"] term (("+" | "-") term)*           a sum or product is a dimension
    term      = atom ("*" atom)*
    atom      = INT | FLOAT | STRING | WORD | type | "@" NAME | "$" STRING | "(" value "//" INT ")"
              | "(" value ")" | "(" ")" | "(" value "," [value, ...] ")"

Types are stated and inferred, and must agree.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from weft.compiler.attributes import attribute_fault
from weft.compiler.errors import CompileError, Source, Span, did_you_mean
from weft.compiler.graph import Graph, Node, make
from weft.compiler.ops import OPS
from weft.compiler.types import DTYPES, Dim, DType, SymDim, TensorType, symbol

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<name>[A-Za-z_][A-Za-z0-9_.]*)
    | (?P<number>[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)
    | (?P<string>"(?:[^"\\\n]|\\.)*")
    | (?P<mark>//|[(){}\[\]=,:%@$*+-])
    """,
    re.VERBOSE,
)
_WORDS = {
    "true": True,
    "false": False,
    "none": None,
    "inf": float("inf"),
    "nan": float("nan"),
}
# Nested values recurse; real texts nest a few levels.
_DEPTH = 60
# Longer numbers are no attribute of anything, and slow to convert.
_DIGITS = 400


def parse_graph(text: str, name: str = "<graph>") -> Graph:
    """The graph of a text, each node placed at its line; `name` is the file in messages.

    Raises CompileError with the place for text that is malformed, undefined or ill-typed names,
    and attributes that an op does not take.
    """
    return _Parser(Source(name, text)).file()


class _Parser:
    """One pass over the tokens, one graph at a time; earlier graphs are bodies for later ones."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.kinds: list[str] = []
        self.texts: list[str] = []
        self.starts: list[int] = []
        self._read()
        self.at = 0
        self.depth = 0
        self.graphs: dict[str, Graph] = {}
        self.unused: dict[str, Span] = {}
        self.types: dict[tuple[str, ...], TensorType] = {}

    def _read(self) -> None:
        place, text = 0, self.source.text
        while place < len(text):
            found = _TOKEN.match(text, place)
            if found is None:
                message = "this character has no meaning in a graph's text"
                raise CompileError(message, Span(self.source, place, place + 1))
            if found.lastgroup != "space":
                self.kinds.append(str(found.lastgroup))
                self.texts.append(found[0])
                self.starts.append(place)
            place = found.end()
        # A mark that nothing expects, so that the end never needs a check of its own.
        self.kinds.append("end")
        self.texts.append("")
        self.starts.append(len(text))

    # -- tokens -----------------------------------------------------------------------------------

    def span(self, at: int) -> Span:
        start = self.starts[at]
        return Span(self.source, start, start + max(1, len(self.texts[at])))

    def fail(
        self,
        message: str,
        at: int | None = None,
        *,
        expected: str | None = None,
        found: str | None = None,
        hint: str | None = None,
    ) -> NoReturn:
        span = self.span(self.at if at is None else at)
        raise CompileError(message, span, expected=expected, found=found, hint=hint)

    def found(self) -> str:
        return f"`{self.texts[self.at]}`" if self.texts[self.at] else "the end of the text"

    def accept(self, text: str) -> bool:
        if self.texts[self.at] == text:
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            self.fail("unexpected text", expected=f"`{text}`", found=self.found())

    def name(self, what: str) -> str:
        """A plain or quoted name."""
        if self.kinds[self.at] == "string":
            return self.string()
        if self.kinds[self.at] != "name":
            self.fail("unexpected text", expected=what, found=self.found())
        self.at += 1
        return self.texts[self.at - 1]

    def string(self) -> str:
        try:
            value = json.loads(self.texts[self.at])
        except ValueError:
            self.fail("this string is not written as in JSON")
        self.at += 1
        return str(value)

    def integer(self) -> int:
        if not self.texts[self.at].isdecimal():
            self.fail("unexpected text", expected="a whole number", found=self.found())
        return int(self.number())

    def number(self) -> int | float:
        text = self.texts[self.at]
        if len(text) > _DIGITS:
            self.fail("this number is too long")
        self.at += 1
        return int(text) if text.isdecimal() else float(text)

    # -- graphs -----------------------------------------------------------------------------------

    def file(self) -> Graph:
        graph = self.graph()
        while self.kinds[self.at] != "end":
            graph = self.graph()
        self.unused.pop(graph.name)
        for name, span in self.unused.items():
            raise CompileError(f"graph `{name}` is not used by the last graph", span)
        return graph

    def graph(self) -> Graph:
        self.expect("graph")
        start = self.at
        name = self.name("the graph's name")
        if name in self.graphs:
            self.fail(f"there are two graphs `{name}`", start)
        nodes: dict[str, Node] = {}
        self.expect("(")
        while not self.accept(")"):
            place = self.at
            key = self.name("the name of an input, or `)`")
            if not key:
                self.fail("an input needs a name", place)
            if key in nodes:
                self.fail(f"there are two inputs `{key}`", place)
            self.expect(":")
            nodes[key] = make("input", name=key, type=self.type(), span=self.span(place))
            self.separator(")")
        inputs = tuple(nodes.values())
        self.expect("{")
        while not self.accept("return"):
            self.node(nodes)
        outputs: dict[str, Node] = {}
        while not self.accept("}"):
            place = self.at
            key = self.name("the name of an output, or `}`")
            if key in outputs:
                self.fail(f"there are two outputs `{key}`", place)
            self.expect("=")
            outputs[key] = self.reference(nodes)
            self.separator("}")
        graph = Graph(name, inputs, tuple(outputs.values()), tuple(outputs))
        self.graphs[name] = graph
        self.unused[name] = self.span(start)
        return graph

    def separator(self, closing: str) -> None:
        if self.texts[self.at] != closing:
            self.expect(",")

    def reference(self, nodes: dict[str, Node]) -> Node:
        place = self.at
        if self.accept("%"):
            key = f"%{self.integer()}"
        else:
            key = self.name("a node such as `%0`, or the name of an input")
        if key not in nodes:
            self.fail(f"`{key}` is not defined above", place, hint=did_you_mean(key, nodes))
        return nodes[key]

    def node(self, nodes: dict[str, Node]) -> None:
        start = self.at
        if not self.accept("%"):
            self.fail("unexpected text", expected="a node or `return`", found=self.found())
        key = f"%{self.integer()}"
        if key in nodes:
            self.fail(f"`{key}` is defined twice", start)
        self.expect("=")
        place = self.at
        op = self.name("the name of an operation")
        if op not in OPS or op == "input":
            self.fail(f"there is no operation `{op}`", place, hint=did_you_mean(op, OPS))
        operands = []
        self.expect("(")
        while not self.accept(")"):
            operands.append(self.reference(nodes))
            self.separator(")")
        attributes: dict[str, Any] = {}
        while not self.accept(":"):
            at = self.at
            attribute = self.name("an attribute, or `:` and the type")
            if attribute in attributes:
                self.fail(f"attribute `{attribute}` is given twice", at)
            self.expect("=")
            attributes[attribute] = self.value()
        at = self.at
        stated = self.type()
        node = self.make(op, operands, attributes, place, start)
        if node.type != stated:
            self.fail(f"`{key}` has another type", at, expected=str(node.type), found=str(stated))
        nodes[key] = node

    def make(
        self, op: str, operands: list[Node], attributes: dict[str, Any], place: int, start: int
    ) -> Node:
        row = OPS[op]
        if row.arity is not None and len(operands) != row.arity:
            self.fail(f"`{op}` takes {row.arity} operands, got {len(operands)}", place)
        if fault := attribute_fault(row, attributes):
            self.fail(fault, place)
        span = Span(self.source, self.starts[start], self.starts[self.at - 1] + 1)
        try:
            return make(op, *operands, span=span, **attributes)
        except (ValueError, IndexError, ZeroDivisionError) as error:
            self.fail(f"`{op}`: {error}", place)

    # -- types and values -------------------------------------------------------------------------

    def type(self) -> TensorType:
        # The same few types recur in all lines: remember them by their tokens.
        end = self.at
        while self.texts[end] not in ("]", ""):
            end += 1
        key = tuple(self.texts[self.at : end])
        known = self.types.get(key)
        if known is not None:
            self.at = end + 1
            return known
        value = self.atom()
        if not isinstance(value, TensorType):
            self.at -= 1
            self.fail("unexpected text", expected="a type such as `f32[2, 3]`")
        self.types[key] = value
        return value

    def dims(self) -> tuple[Dim, ...]:
        """The dimensions of a type, after `[`."""
        dims: list[Dim] = []
        while not self.accept("]"):
            place = self.at
            dims.append(self.dim(self.value(), place))
            self.separator("]")
        return tuple(dims)

    def dim(self, value: Any, place: int) -> Dim:
        if type(value) is int or isinstance(value, SymDim):
            return value
        self.fail("this must be a dimension: a whole number or a symbol", place)

    def value(self) -> Any:
        place = self.at
        negative = self.accept("-")
        total = self.term()
        if negative:
            if type(total) is not float:
                total = self.dim(total, place)
            total = -total
        while self.texts[self.at] in ("+", "-"):
            left = self.dim(total, place)
            sign, at = self.texts[self.at], self.at + 1
            self.at += 1
            right = self.dim(self.term(), at)
            total = left - right if sign == "-" else left + right
        return total

    def term(self) -> Any:
        place = self.at
        total = self.atom()
        while self.accept("*"):
            at = self.at
            total = self.dim(total, place) * self.dim(self.atom(), at)
        return total

    def atom(self) -> Any:
        place, text, kind = self.at, self.texts[self.at], self.kinds[self.at]
        if kind == "number":
            return self.number()
        if kind == "string":
            return self.string()
        if kind == "name":
            self.at += 1
            if text in DTYPES:
                dtype: DType = DTYPES[text]
                return TensorType(dtype, self.dims()) if self.accept("[") else dtype
            return _WORDS[text] if text in _WORDS else symbol(text)
        if self.accept("@"):
            name = self.name("the name of a graph")
            if name not in self.graphs:
                hint = did_you_mean(name, self.graphs)
                self.fail(f"graph `{name}` is not defined above", place, hint=hint)
            self.unused.pop(name, None)
            return self.graphs[name]
        if self.accept("$"):
            if self.kinds[self.at] != "string":
                self.fail("unexpected text", expected="a quoted symbol", found=self.found())
            return symbol(self.string())
        if self.accept("("):
            self.depth += 1
            if self.depth > _DEPTH:
                self.fail(f"values nest deeper than {_DEPTH} levels", place)
            value = self.parenthesis()
            self.depth -= 1
            return value
        self.fail("unexpected text", expected="a value", found=self.found())

    def parenthesis(self) -> Any:
        """A tuple, a floor division or a sum, after `(`."""
        if self.accept(")"):
            return ()
        place = self.at
        first = self.value()
        if self.accept("//"):
            at = self.at
            divisor = self.integer()
            if divisor == 0:
                self.fail("a dimension can't be divided by 0", at)
            quotient = self.dim(first, place) // divisor
            self.expect(")")
            return quotient
        if self.accept(")"):
            return self.dim(first, place)
        items = [first]
        while not self.accept(")"):
            self.expect(",")
            if self.accept(")"):
                break
            items.append(self.value())
        return tuple(items)
