"""What a `train` block states: each setting once, and what it minimises, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from weft.compiler.errors import CompileError, Note, Span, did_you_mean, one_of
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.builtins import BUILTINS
from weft.frontends.dsl.elsewhere import SETTINGS, elsewhere
from weft.frontends.dsl.interpreter import Interpreter
from weft.frontends.dsl.modules import Module, Scope
from weft.frontends.dsl.registry import Registry
from weft.frontends.dsl.values import Value

KEYS = (
    "data", "metrics", "clip", "constrain", "epochs", "steps", "stop", "seed", "precision",
    "loss_scale", "average", "predict",
)  # fmt: skip


@dataclass(eq=False)
class Block:
    """A `train` block being elaborated; `overrides` are settings from outside of the spec."""

    decl: s.TrainDecl
    module: Module
    registry: Registry
    resolve: Callable[[Interpreter, Module, s.Declaration, str], Value]
    overrides: Mapping[str, Value]
    keys: dict[str, s.Setting] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for statement in self.decl.statements:
            if isinstance(statement, s.Setting):
                self._setting(statement)
        self.objectives = [st for st in self.decl.statements if isinstance(st, s.Minimize)]
        if not self.objectives:
            raise CompileError(
                "`train` minimises nothing",
                self.keyword,
                expected="a line such as `minimize cross_entropy(net(x), y) with adam(1e-3)`",
            )

    def _setting(self, setting: s.Setting) -> None:
        if setting.key not in KEYS:
            raise CompileError(
                f"`train` has no setting `{setting.key}`",
                setting.key_span,
                expected=one_of(KEYS),
                hint=elsewhere(setting.key, SETTINGS)
                or did_you_mean(setting.key, KEYS)
                or f"name a value with `let {setting.key} = ...`",
            )
        if setting.key in self.keys:
            raise CompileError(
                f"`{setting.key}` is set twice",
                setting.key_span,
                notes=[Note("first set here", self.keys[setting.key].key_span)],
            )
        self.keys[setting.key] = setting

    @property
    def keyword(self) -> Span:
        """The place of the word `train`."""
        return s.part(self.decl.span, "train")

    def place(self, key: str) -> Span | None:
        """Where a setting's value is written; None for one that comes from outside of the spec."""
        if key in self.overrides:
            return None
        return self.keys[key].value.span if key in self.keys else self.keyword

    def interpreter(self) -> Interpreter:
        """For what is known before any pass."""
        return Interpreter(self.registry, BUILTINS, resolve=self.resolve)

    def static(self, key: str, default: Value = None) -> Value:
        """A setting's value where it needs no tensors: from the command line, or as written."""
        if key in self.overrides:
            return self.overrides[key]
        if key not in self.keys:
            return default
        return self.interpreter().evaluate(self.keys[key].value, Scope(self.module))

    @property
    def loss_names(self) -> list[str]:
        count = len(self.objectives)
        return ["loss"] if count == 1 else [f"loss_{i + 1}" for i in range(count)]

    @property
    def metric_names(self) -> list[str]:
        setting = self.keys.get("metrics")
        record = setting.value if setting is not None else None
        return [e.name for e in record.entries] if isinstance(record, s.Record) else []
