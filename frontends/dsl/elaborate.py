"""From a parsed spec to what the compiler takes: an `Experiment`, or the graph of one function.

Source -> modules (files, imports, library) -> declarations by name -> passes over `train`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from weft.compiler import builder as b
from weft.compiler.collector import no_cycles
from weft.compiler.errors import CompileError, Note, Source, Span, did_you_mean, one_of
from weft.compiler.graph import Graph, Node, topological
from weft.compiler.program import Experiment
from weft.compiler.types import F32, DType, TensorType
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.arguments import Given, assign
from weft.frontends.dsl.builtins import BUILTINS
from weft.frontends.dsl.copies import copied
from weft.frontends.dsl.data import DataProvider, elaborate_data
from weft.frontends.dsl.diagnostics import UnknownName
from weft.frontends.dsl.expressions import arguments
from weft.frontends.dsl.interpreter import Interpreter
from weft.frontends.dsl.modules import Module, Scope, load_module
from weft.frontends.dsl.names import check_names
from weft.frontends.dsl.parser import parse_expression
from weft.frontends.dsl.registry import Registry
from weft.frontends.dsl.training.block import Block
from weft.frontends.dsl.training.experiment import experiment
from weft.frontends.dsl.values import Closure, Model, Tensor, Value, describe, unlabelled


class Declarations:
    """Values of top-level declarations, each made once, when first asked for."""

    def __init__(
        self,
        overrides: Mapping[str, Value] | None = None,
        provider: DataProvider | None = None,
    ) -> None:
        self.provider = provider
        self.overrides = dict(overrides or {})
        self.used: set[str] = set()
        self.values: dict[tuple[int, str], Value] = {}
        self.open: list[s.Declaration] = []

    def __call__(
        self, interpreter: Interpreter, module: Module, declaration: s.Declaration, name: str
    ) -> Value:
        key = (id(declaration), name)
        if key not in self.values:
            if declaration in self.open:
                raise _circle(name, self.open[self.open.index(declaration) :])
            self.open.append(declaration)
            try:
                self.values[key] = self._make(interpreter, module, declaration, name)
            finally:
                self.open.pop()
        return self.values[key]

    def _make(
        self, interpreter: Interpreter, module: Module, declaration: s.Declaration, name: str
    ) -> Value:
        match declaration:
            case s.LetDecl():
                return self._let(interpreter, module, declaration, name)
            case s.ModelDecl():
                return self._model(interpreter, module, declaration)
            case s.DataDecl() if self.provider is not None:
                return elaborate_data(interpreter, module, declaration, self.provider)
            case s.DataDecl():
                raise CompileError("data can't be used here", declaration.name_span)
        raise CompileError(f"`{name}` is not a value", declaration.span)

    def _let(
        self, interpreter: Interpreter, module: Module, declaration: s.LetDecl, name: str
    ) -> Value:
        if name in self.overrides:
            self.used.add(name)
            return self.overrides[name]
        value = interpreter.evaluate(declaration.value, Scope(module))
        if len(declaration.targets) == 1:
            return value
        if not isinstance(value, list | tuple) or len(value) != len(declaration.targets):
            raise CompileError(
                f"{len(declaration.targets)} names need as many values",
                declaration.value.span,
                found=describe(value),
            )
        names = [t.identifier for t in declaration.targets]
        return value[names.index(name)]

    def _model(self, interpreter: Interpreter, module: Module, declaration: s.ModelDecl) -> Value:
        copy = copied(interpreter, module, declaration)
        if copy is not None:
            return copy
        call = declaration.value
        scope = Scope(module)
        function = interpreter.evaluate(call.function if isinstance(call, s.Call) else call, scope)
        if not isinstance(function, Closure) or function.kind != "layer":
            raise CompileError(
                f"the model `{declaration.name}` is not made of a layer",
                call.span,
                expected="a layer and its settings, such as `mlp(hidden = 64)`",
                found=describe(function),
            )
        parameters = function.decl.parameters or ()
        settings: dict[str, Value] = {}
        places: dict[str, Span] = {}
        if isinstance(call, s.Call):
            rest = [p for p in parameters if p.type is None or p.type.dims is None]
            bound = assign(function.name, rest, arguments(interpreter, call, scope), call.span)
            settings = {k: g.value for k, g in bound.items()}
            places = {k: g.span for k, g in bound.items()}
        for name in [p.name for p in parameters]:
            if name in self.overrides and name not in module.declarations:
                self.used.add(name)
                settings[name] = self.overrides[name]
        return Model(declaration.name, function, settings, declaration, places=places)

    def check_overrides(self, known: Sequence[str]) -> None:
        """An override that nothing took is a mistake."""
        for name in self.overrides:
            if name not in self.used:
                raise CompileError(
                    f"nothing to set is called `{name}`",
                    expected=one_of(sorted(set(known))) if known else "a top-level `let`",
                    hint=did_you_mean(name, known),
                )


@no_cycles()
def elaborate(
    source: Source,
    provider: DataProvider,
    base: Path | None = None,
    overrides: Mapping[str, Value] | None = None,
) -> Experiment:
    """The experiment of a spec with one `train` block.

    `overrides` sets top-level `let`s, arguments of models, and the settings of `train` that are
    numbers or names (`--set hidden=512`). A `str` is an expression, as the spec would write it.
    """
    module, unnamed = load_module(source, base)
    trains = [d for d in unnamed if isinstance(d, s.TrainDecl)]
    end = len(source.text.rstrip())
    for other in unnamed:
        if isinstance(other, s.StudyDecl):
            raise CompileError(
                "studies can't be run yet",
                Span(source, other.span.start, other.span.start + len("study")),
                hint="leave the block out, and vary values with `--set`",
            )
    if len(trains) != 1:
        unused = module.imports and not trains
        raise CompileError(
            "the spec has no `train` block" if not trains else "the spec has two `train` blocks",
            s.part(trains[1].span, "train") if trains else Span(source, end, end),
            expected="one `train { ... }`",
            hint="the `train` of an imported file belongs to that file" if unused else None,
            notes=[Note("the first one", s.part(trains[0].span, "train"))] if trains else (),
        )
    declarations = Declarations(_evaluated(overrides or {}, module, provider), provider)
    registry = Registry()
    scalars = {k: v for k, v in declarations.overrides.items() if k in OVERRIDABLE}
    declarations.used |= set(scalars)
    name = trains[0].name or Path(source.name).stem
    found = experiment(Block(trains[0], module, registry, declarations, scalars), name)
    declarations.check_overrides(_overridable(module))
    fields = found.data.fields if found.data is not None else ()
    check_names(module, trains[0], [f.name for f in fields])
    return found


def _evaluated(
    overrides: Mapping[str, Value], module: Module, provider: DataProvider
) -> dict[str, Value]:
    """Overrides with each `str` as the value that the spec, without overrides, gives it."""
    interpreter = Interpreter(Registry(), BUILTINS, resolve=Declarations(provider=provider))
    values = {}
    for name, value in overrides.items():
        if isinstance(value, str):
            expression = parse_expression(Source(f"<set {name}>", value))
            try:
                value = interpreter.evaluate(expression, Scope(module))
            except UnknownName as error:
                if name != "precision":
                    raise
                value = error.name  # the setting itself says what it may be
            if isinstance(value, Tensor):
                raise CompileError(
                    f"`{name}` is known before anything runs",
                    expression.span,
                    expected="a number, a text, a list or the name of a function",
                    found=describe(value),
                )
        values[name] = value
    return values


def _circle(name: str, circle: Sequence[s.Declaration]) -> CompileError:
    """The error for declarations that need each other, the first of them called `name`."""
    places = [_name_of(d) for d in circle]
    chain = [place.source.text[place.start : place.end] for place in places]
    return CompileError(
        f"`{name}` is defined by itself",
        places[0],
        hint=", which needs ".join(f"`{n}`" for n in (*chain, chain[0])).replace(", which", "", 1),
    )


def _name_of(declaration: s.Declaration) -> Span:
    if isinstance(declaration, s.LetDecl):
        return declaration.targets[0].span
    return declaration.name_span if isinstance(declaration, s.Named) else declaration.span


OVERRIDABLE = ("epochs", "steps", "seed", "precision")


def _overridable(module: Module) -> list[str]:
    names = [*OVERRIDABLE]
    for name, declaration in module.declarations.items():
        if isinstance(declaration, s.LetDecl):
            names.append(name)
        if isinstance(declaration, s.ModelDecl) and isinstance(declaration.value, s.Call):
            function = declaration.value.function
            layer = module.find(function.identifier) if isinstance(function, s.Name) else None
            if layer and isinstance(layer[1], s.LayerDecl):
                names += [p.name for p in layer[1].parameters if p.type is None or not p.type.dims]
    return names


def find_function(
    source: Source, name: str, base: Path | None = None, float_type: DType = F32
) -> tuple[Interpreter, Closure]:
    """The `fn` of this name, and an interpreter to call it in."""
    module, _ = load_module(source, base)
    registry = Registry(float_type=float_type)
    interpreter = Interpreter(registry, BUILTINS, training=True, resolve=Declarations())
    interpreter.statement = name
    found = interpreter.lookup(name, Scope(module), _whole(source))
    if not isinstance(found, Closure) or found.kind not in ("fn", "layer"):
        raise CompileError(
            f"`{name}` is not a function", expected="the name of a `fn`", found=describe(found)
        )
    return interpreter, found


def elaborate_function(
    source: Source,
    name: str,
    arguments: Sequence[TensorType],
    base: Path | None = None,
    float_type: DType = F32,
) -> Graph:
    """The graph of one `fn` of a spec, for arguments of the given types."""
    interpreter, found = find_function(source, name, base, float_type)
    names = [p.name for p in found.decl.parameters or ()]
    nodes = [
        b.input_(names[i] if i < len(names) else f"argument{i}", t) for i, t in enumerate(arguments)
    ]
    parameters = [*(found.decl.parameters or ()), *[None] * len(nodes)]
    given = [
        Given(None, _argument(n, p), found.decl.name_span)
        for n, p in zip(nodes, parameters, strict=False)
    ]
    result = interpreter.call(found, given, found.decl.name_span)
    parts = list(result) if isinstance(result, list | tuple) else [result]
    outputs = [interpreter.tensor(p, float_type, found.decl.span) for p in parts]
    inputs = [*nodes, *_others(outputs, nodes)]
    return Graph(name, tuple(inputs), tuple(t.node for t in outputs))


def _argument(node: Node, parameter: s.Parameter | None) -> Tensor:
    """An argument from outside: whole numbers are labels where the signature says `class[10]`."""
    tensor = unlabelled(node)
    type = parameter.type if parameter else None
    if type is None or type.base != "class" or not type.dims or node.type.dtype.kind == "float":
        return tensor
    count = type.dims[0]
    if isinstance(count, s.Number) and isinstance(count.value, int):
        return Tensor(node, tensor.axes, count.value)
    return tensor


def _others(outputs: Sequence[Tensor], nodes: Sequence[object]) -> list[Value]:
    reached = topological([t.node for t in outputs])
    return [n for n in reached if n.op.name == "input" and n not in nodes]


def _whole(source: Source) -> Span:
    return Span(source, 0, 0)
