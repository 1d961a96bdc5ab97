"""Floating types as functions of them see them: their layout in bits, and their coefficients.

Coefficients are weighted minimax fits, made at 60 digits and rounded one by one to the format
with a new fit of the rest after each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx as T

from weft.backends.tvm.lines import fused, special, type_name
from weft.backends.tvm.tir import Expr


@dataclass(frozen=True)
class Format:
    """A floating type: its layout in bits, and the constants of its functions."""

    name: str
    ln2: tuple[float, float]  # ln 2 = high + low; the high part times an exponent is exact
    exp: tuple[float, ...]  # (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2
    exp_range: tuple[float, float]  # beyond these exp gives 0 and infinity
    expm1_low: float  # below it expm1 gives -1
    log: tuple[float, ...]  # (log(1 + f) - f + f^2 / 2) / f^3 for sqrt(1/2) <= 1 + f <= sqrt(2)
    tanh_end: float  # from it on tanh gives 1
    erf_near: tuple[float, ...]  # erf(x) / x - 1 in x^2, for x <= 1
    erf_far: tuple[float, ...]  # log(1 - erf(x)) for 1 <= x <= erf_end
    erf_end: float  # from it on erf gives 1

    @property
    def word(self) -> str:
        """The unsigned integer of its size."""
        return self.name.replace("float", "uint")

    @property
    def mantissa(self) -> int:
        """Bits after the point."""
        return int(np.finfo(self.name).nmant)

    @property
    def bias(self) -> int:
        return int(np.finfo(self.name).maxexp) - 1

    @property
    def epsilon(self) -> float:
        """Half of the distance from 1 to the next number: what 1 + x does not see."""
        return float(2.0 ** -(self.mantissa + 1))

    @property
    def smallest(self) -> float:
        """The smallest number that is not denormal."""
        return float(2.0 ** (1 - self.bias))

    def number(self, value: float) -> Expr:
        return T.const(value, self.name)

    def bits(self, value: int) -> Expr:
        return T.const(value, self.word)

    def special(self, value: float) -> Expr:
        """A number that TVM would otherwise fold wrongly (0, -0) or can't write (infinity, NaN)."""
        return special(value, self.name)

    def as_bits(self, x: Expr) -> Expr:
        return T.reinterpret(self.word, x)

    def as_number(self, bits: Expr) -> Expr:
        return T.reinterpret(self.name, bits)

    def polynomial(self, x: Expr, coefficients: Sequence[float]) -> Expr:
        """The constant term comes first."""
        result = self.number(coefficients[-1])
        for c in reversed(coefficients[:-1]):
            result = fused(result, x, self.number(c))
        return result


FORMATS = {
    "float32": Format(
        name="float32",
        ln2=(0.693115234375, 3.1946184945309415e-05),
        exp=(0.49999997, 0.16666543, 0.0416675, 0.008366568, 0.001386498),
        exp_range=(-104.0, 89.0),
        expm1_low=-18.0,
        log=(
            0.3333331, -0.24999987, 0.20002222, -0.16669242, 0.14218757, -0.12384645, 0.118725374,
            -0.117875025, 0.069133155,
        ),
        tanh_end=10.0,
        erf_near=(
            0.12837917, -0.3761263, 0.11283619, -0.026855174, 0.0051908446, -0.0008031836,
            7.9241305e-05,
        ),
        erf_far=(
            0.0001880735, -1.1295786, -0.63321954, -0.10841899, 0.025208551, -0.0042046867,
            0.00044136556, -2.1689737e-05,
        ),
        erf_end=4.1,
    ),
    "float64": Format(
        name="float64",
        ln2=(0.6931471803691238, 1.9082149292705877e-10),
        exp=(
            0.5, 0.16666666666666677, 0.041666666666666685, 0.008333333333321404,
            0.001388888888887286, 0.0001984126988674126, 2.480158735071633e-05,
            2.7557243550292096e-06, 2.755725008983838e-07, 2.5109280068468578e-08,
            2.0922406041249475e-09,
        ),
        exp_range=(-746.0, 710.0),
        expm1_low=-38.0,
        log=(
            0.3333333333333334, -0.250000000000004, 0.19999999999995485, -0.1666666666653964,
            0.14285714286347545, -0.12500000015286583, 0.11111111075154864, -0.09999999047548759,
            0.09090909792742073, -0.08333367894514077, 0.07692322356305509, -0.07142095511676312,
            0.0666563110457001, -0.06260048086510242, 0.05904924297084374, -0.0548416971855465,
            0.0501704318618781, -0.051569617484448244, 0.06061829393121705, -0.054966256846438175,
            0.02314869011920526,
        ),
        tanh_end=20.0,
        erf_near=(
            0.12837916709551256, -0.37612638903183476, 0.11283791670943442, -0.02686617064305995,
            0.005223977605985073, -0.0008548325931185012, 0.00012055293791085027,
            -1.4924718451297095e-05, 1.6447224733066905e-06, -1.6207120009549855e-07,
            1.3714751485189807e-08, -7.786882286412215e-10,
        ),
        erf_far=(
            -1.8471440847969585e-07, -1.1283772791525861, -0.6366287186242073,
            -0.10274660031147603, 0.019076872172046917, 0.00028234883920534034,
            -0.0017710576155507308, 0.0006429468329595255, -4.603231457393516e-05,
            -6.970947962537305e-05, 4.475241201104408e-05, -1.641553368586566e-05,
            4.300184315613456e-06, -8.44859563153696e-07, 1.2477783137151763e-07,
            -1.3516034192140405e-08, 1.0165468008439606e-09, -4.749212202223065e-11,
            1.0384721603263943e-12,
        ),
        erf_end=6.0,
    ),
}  # fmt: skip


def format_of(x: Expr) -> Format:
    return FORMATS[type_name(x)]
