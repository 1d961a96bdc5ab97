"""The error function in NumPy, to the last digits of float64."""

from __future__ import annotations

import numpy as np

Array = np.ndarray

# Rational approximations of erf and erfc of W. J. Cody (Math. Comp. 23, 1969), relative error
# below 1e-16: x P(x^2)/Q(x^2) for |x| <= 0.5, exp(-x^2) P(|x|)/Q(|x|) up to 4, and beyond it
# exp(-x^2)/|x| (1/sqrt(pi) + P(1/x^2)/(x^2 Q(1/x^2))).
_ERF_SMALL = (
    (3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3),
    (2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
    1.85777706184603153e-1,
)
_ERF_MIDDLE = (
    (
        5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
        2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3,
        2.05107837782607147e3, 1.23033935479799725e3,
    ),
    (
        1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2,
        1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3,
        3.43936767414372164e3, 1.23033935480374942e3,
    ),
    2.15311535474403846e-8,
)  # fmt: skip
_ERF_LARGE = (
    (
        3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
        1.60837851487422766e-2, 6.58749161529837803e-4,
    ),
    (
        2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1,
        6.05183413124413191e-2, 2.33520497626869185e-3,
    ),
    1.63153871373020978e-2,
)  # fmt: skip


def _ratio(
    z: Array, numerator: tuple[float, ...], denominator: tuple[float, ...], top: float
) -> Array:
    p, q = top * z, z
    for a, b in zip(numerator[:-1], denominator[:-1], strict=True):
        p, q = (p + a) * z, (q + b) * z
    return (p + numerator[-1]) / (q + denominator[-1])


def erf(x: Array) -> Array:
    """The error function `2/sqrt(pi) * integral of exp(-t^2) from 0 to x`."""
    wide = x.astype(np.float64)
    a = np.abs(wide)
    square = a * a
    middle = np.clip(a, 0.46875, 4.0)
    large = np.clip(a, 4.0, 10.0)
    inverse = 1 / (large * large)
    tail = np.where(
        a <= 4.0,
        np.exp(-middle * middle) * _ratio(middle, *_ERF_MIDDLE),
        np.exp(-large * large)
        / large
        * (1 / np.sqrt(np.pi) - inverse * _ratio(inverse, *_ERF_LARGE)),
    )
    near = wide * _ratio(np.minimum(square, 0.25), *_ERF_SMALL)
    result = np.where(a <= 0.46875, near, np.sign(wide) * (1 - tail))
    return np.where(np.isnan(wide), wide, result).astype(x.dtype)
