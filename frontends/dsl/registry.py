"""What a spec owns beyond one pass over it: states, their places, warnings, the element type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Diagnostic, Span
from weft.compiler.graph import Node
from weft.compiler.program import State
from weft.compiler.types import F32, I64, U32, Dim, DType, SymDim, TensorType, symbol
from weft.frontends.dsl.values import Label, Model

BATCH = "batch"
SEED = "seed"
STEP = "step"


@dataclass(eq=False)
class Registry:
    """Shared by the training and the evaluation pass of one spec."""

    float_type: DType = F32  # of states, and of all that is computed outside of models
    narrow_type: DType | None = None  # that models compute in, where it is another one
    factors: str | None = None  # what products of models may round their factors to
    states: dict[str, State] = field(default_factory=dict)
    inputs: dict[str, Node] = field(default_factory=dict)
    warnings: list[Diagnostic] = field(default_factory=list)
    batch_label: Label = field(default_factory=lambda: Label(BATCH))
    batch_size: Dim = field(default_factory=lambda: symbol(BATCH))
    steps: int | None = None
    steps_per_epoch: int | None = None
    metrics: Sequence[str] | None = None  # of an epoch: the losses and what `metrics` names
    epoch_updates: dict[str, Node] = field(default_factory=dict)  # of states, at an epoch's end
    copies: list[Model] = field(default_factory=list)  # that are called, in the order of that

    def __post_init__(self) -> None:
        seed = TensorType(U32, (2,))
        self.add(State(SEED, seed, "seed", b.input_(SEED, seed)))
        step = TensorType(I64)
        self.add(State(STEP, step, "counter", b.zeros(step)))

    def add(self, state: State) -> Node:
        """Register a state, or find the one registered under the name by an earlier pass."""
        known = self.states.get(state.name)
        if known is None:
            self.states[state.name] = state
            self.inputs[state.name] = b.input_(state.name, state.type)
        elif known.type != state.type:
            raise CompileError(
                f"`{state.name}` has two shapes: a model's parameters are shared by all its calls",
                state.span,
                expected=str(known.type),
                found=str(state.type),
                hint="use a second model, or give both calls inputs of the same shape",
            )
        return self.inputs[state.name]

    def copy(self, model: Model) -> None:
        """Take note of a model that follows another one."""
        if model not in self.copies:
            self.copies.append(model)

    def warn(
        self,
        message: str,
        span: Span | None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        warning = Diagnostic(message, span, expected, hint=hint, severity="warning")
        if warning not in self.warnings:
            self.warnings.append(warning)


def static_sizes(dims: tuple[Dim, ...], name: str, span: Span) -> tuple[int, ...]:
    """Sizes of something that lives in the state, which can't depend on the batch."""
    for dim in dims:
        if isinstance(dim, SymDim):
            raise CompileError(
                f"the size of `{name}` depends on the batch",
                span,
                expected="sizes that are the same for every batch",
                found=f"{dim}",
                hint="only axes other than the batch axis can size a parameter or state",
            )
    return tuple(d for d in dims if isinstance(d, int))


def fans(shape: tuple[int, ...]) -> Mapping[str, int]:
    """`fan_in` and `fan_out` of a weight `[in, out]` or a kernel `[out, in, window...]`."""
    if not shape:
        return {"fan_in": 1, "fan_out": 1}
    if len(shape) <= 2:
        return {"fan_in": shape[0], "fan_out": shape[-1]}
    window = 1
    for size in shape[2:]:
        window *= size
    return {"fan_in": shape[1] * window, "fan_out": shape[0] * window}
