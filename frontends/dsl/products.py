"""The `@` operator: matrix products of named axes.

x[...B, I] @ w[I, O]          -> [...B, O]
x[...B, I] @ v[I]             -> [...B]
q[...B, T, D] @ k[...B, D, S] -> [...B, T, S]     equal leading axes
"""

from __future__ import annotations

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Span
from weft.frontends.dsl.values import Tensor, shape_text


def matmul(left: Tensor, right: Tensor, span: Span, factors: str | None = None) -> Tensor:
    shown = f"`{shape_text(left)} @ {shape_text(right)}`"
    if left.rank == 0 or right.rank == 0:
        raise CompileError("`@` needs tensors with axes", span, found=shown, hint="use `*`")
    if left.type.dtype != right.type.dtype or left.type.dtype.kind == "bool":
        raise CompileError("`@` of two element types", span, found=shown)
    inner = right.rank - 2 if right.rank > 1 else 0
    if left.type.shape[-1] != right.type.shape[inner]:
        raise CompileError(
            "`@` expects inner dimensions to match",
            span,
            expected=f"{left.type.shape[-1]} in the second operand's "
            f"{'second-last' if right.rank > 1 else 'only'} axis",
            found=shown,
            hint=_transposed(left, right),
        )
    a, c = left.axes[-1], right.axes[inner]
    if a is not None and c is not None and a is not c:
        raise CompileError(
            f"`@` sums axis `{a.name}` with axis `{c.name}`",
            span,
            expected="the same name on both inner axes",
            found=shown,
        )
    if right.rank <= 2:
        contract = ((left.rank - 1,), (inner,))
        node = b.dot_general(left.node, right.node, contract, factors=factors)
        return Tensor(node, (*left.axes[:-1], *right.axes[1:]))
    lead = right.rank - 2
    if left.type.shape[:-2] != right.type.shape[:-2] or left.rank != right.rank:
        raise CompileError(
            "`@` expects equal leading axes",
            span,
            expected="the same axes before the last two",
            found=shown,
            hint="a matrix as the second operand is shared by all leading axes",
        )
    outer = tuple(range(lead))
    contract = ((lead + 1,), (lead,))
    node = b.dot_general(left.node, right.node, contract, (outer, outer), factors)
    axes = tuple(m or n for m, n in zip(left.axes[:-1], (*right.axes[:-2], None), strict=True))
    return Tensor(node, (*axes, right.axes[-1]))


def _transposed(left: Tensor, right: Tensor) -> str | None:
    """A hint where the product would do with one operand turned."""
    if right.rank == 2 and right.type.shape[1] == left.type.shape[-1]:
        return "the second operand turned fits: `x @ transpose(w)`"
    return None
