"""Element types in ONNX, and which of them onnxruntime's CPU kernels take.

ONNX allows more than runtimes have. Where a kernel lacks a type, the writer casts to a wider one
that it has and back; where none is wide enough, the operator is written as it is, which is valid.
"""

from __future__ import annotations

from onnx import TensorProto

from weft.compiler.types import (
    BF16,
    BOOL,
    F16,
    F32,
    F64,
    I8,
    I32,
    I64,
    U8,
    U32,
    U64,
    DType,
)

CODES: dict[DType, int] = {
    BOOL: TensorProto.BOOL,
    I8: TensorProto.INT8,
    I32: TensorProto.INT32,
    I64: TensorProto.INT64,
    U8: TensorProto.UINT8,
    U32: TensorProto.UINT32,
    U64: TensorProto.UINT64,
    F16: TensorProto.FLOAT16,
    BF16: TensorProto.BFLOAT16,
    F32: TensorProto.FLOAT,
    F64: TensorProto.DOUBLE,
}

_F = frozenset({F16, F32, F64})
_I = frozenset({I8, I32, I64})
_U = frozenset({U8, U32, U64})
_WHOLE = frozenset({I32, I64})

# What onnxruntime 1.31 runs on a CPU; operators that are not here take every type.
KERNELS: dict[str, frozenset[DType]] = {
    **dict.fromkeys(("Floor", "Ceil", "Round", "Exp", "Log", "Sqrt", "Reciprocal"), _F),
    **dict.fromkeys(("Sin", "Cos", "Tanh", "Sigmoid", "Softmax", "LogSoftmax"), _F),
    **dict.fromkeys(("Gemm", "BatchNormalization", "LayerNormalization"), _F),
    **dict.fromkeys(("Erf", "Softplus", "LeakyRelu", "Elu", "Gelu"), _F - {F64}),
    **dict.fromkeys(("HardSigmoid", "HardSwish", "Selu", "Softsign"), _F - {F64}),
    **dict.fromkeys(("Conv", "ConvTranspose", "AveragePool"), _F - {F64}),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _F - {F64}),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization", "LRN"), _F - {F64}),
    **dict.fromkeys(("RMSNormalization", "Resize"), _F - {F64}),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Clip", "Abs"), _F | _I | _U),
    **dict.fromkeys(("Less", "LessOrEqual", "Greater", "GreaterOrEqual"), _F | _I | _U),
    **dict.fromkeys(("Equal", "Pad", "Expand"), _F | _I | _U | {BOOL}),
    **dict.fromkeys(("ReduceSum", "ReduceProd", "CumSum", "Einsum"), _F | _WHOLE),
    **dict.fromkeys(("ReduceMax", "ReduceMin"), _F | _I | {U8, BOOL}),
    **dict.fromkeys(("ArgMax", "ArgMin", "TopK"), _F | _I | {U8}),
    "Neg": _F | _I,
    "Celu": frozenset({F32}),
    "Mish": _F - {F64},
    "Relu": _F | {I8, I32},
    "Pow": _F | _WHOLE,
    "Where": _F | _I | {U8, U32},
    "BitShift": _U,
    "MatMul": _F | _WHOLE | {U32, U64},
    "MaxPool": _F | {I8, U8},
    "Range": frozenset({F32, F64, I32, I64}),
}

# A type that holds every value of another; 64-bit integers only change their sign bit's meaning,
# which sums, products and choices don't see.
_WIDER = {BF16: F32, F16: F32, BOOL: U8, I8: I32, U8: I32, I32: I64, U32: I64, U64: I64}

# The opset in which an operator came; below it, Weft has no other way to say it.
SINCE = {
    "BitwiseAnd": 18,
    "BitwiseNot": 18,
    "BitwiseOr": 18,
    "BitwiseXor": 18,
    "Gelu": 20,
    "GroupNormalization": 21,  # before, its scale had an entry for each group
    "Mish": 18,
    "RMSNormalization": 23,
}


def runnable(op_type: str, dtype: DType) -> DType:
    """The type in which to run an operator on operands of this type; itself where nothing helps."""
    kernels = KERNELS.get(op_type)
    if kernels is None:
        return dtype
    wide: DType | None = dtype
    while wide is not None and wide not in kernels:
        wide = _WIDER.get(wide)
    return wide or dtype
