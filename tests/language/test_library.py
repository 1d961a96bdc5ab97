"""The library's functions: against PyTorch's stored results, against formulas, at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from language.elaborated import (
    cotangent,
    elaborate,
    fixture,
    fixture_names,
    fixture_result,
    value,
)
from language.test_library_layers import CASES as LAYERS
from weft.compiler.errors import CompileError
from weft.compiler.types import F32
from weft.frontends.dsl.builtins import BUILTINS
from weft.frontends.dsl.format import format_source
from weft.frontends.dsl.modules import library

Array = np.ndarray
rng = np.random.default_rng(0)

# Cases of make_library.py, as Weft says them.
CASES = {
    "relu": "relu(x)",
    "leaky_relu": "leaky_relu(x)",
    "leaky_relu_2": "leaky_relu(x, 2)",
    "sigmoid": "sigmoid(x)",
    "tanh": "tanh(x)",
    "gelu": "gelu(x)",
    "gelu_tanh": "gelu_tanh(x)",
    "silu": "silu(x)",
    "softplus": "softplus(x)",
    "elu": "elu(x)",
    "elu_half": "elu(x, alpha = 0.5)",
    "softmax": "softmax(x)",
    "softmax_first": "softmax(x, over = 0)",
    "softmax_large": "softmax(x)",
    "log_softmax": "log_softmax(x)",
    "log_softmax_middle": "log_softmax(x, over = 1)",
    "log_softmax_large": "log_softmax(x)",
    "cross_entropy": "cross_entropy(x, y)",
    "cross_entropy_large": "cross_entropy(x, y)",
    "cross_entropy_soft": "cross_entropy(x, y)",
    "cross_entropy_one_hot": "cross_entropy(x, y)",
    "bce": "bce(x, y)",
    "bce_large": "bce(x, y)",
    "bce_one": "bce(x, 1)",
    "bce_probabilities": "bce_probabilities(x, y)",
    "mse": "mse(x, y)",
    "mae": "mae(x, y)",
    "huber": "huber(x, y, delta = 0.8)",
    "max_pool": "max_pool(x)",
    "max_pool_overlap": "max_pool(x, [3, 2], stride = [2, 1])",
    "max_pool_same": 'max_pool(x, 3, stride = 2, padding = "same")',
    "max_pool_line": "max_pool(x, 3, stride = 1)",
    "average_pool": "average_pool(x)",
    "average_pool_padded": "average_pool(x, 3, stride = 2, padding = 1)",
    "average_pool_zeros": "average_pool(x, 3, stride = 2, padding = 1, count_padding = true)",
    "global_average_pool": "global_average_pool(x)",
    "global_max_pool": "global_max_pool(x)",
    "flatten": "flatten(x)",
}


def test_every_stored_case_is_tested() -> None:
    assert fixture_names() == {*CASES, *LAYERS, "optimizer"}


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_functions_agree_with_pytorch(name: str, symbolic: bool) -> None:
    inputs = fixture(name, "in")
    text = f"fn f({', '.join(inputs)}) = {CASES[name]}"
    labels = {
        i: inputs["x"].shape[-1] for i, a in enumerate(inputs.values()) if a.dtype == np.int64
    }
    found = elaborate(text, *inputs.values(), classes=labels, symbolic=symbolic)
    np.testing.assert_allclose(found.values()[0], fixture_result(name), rtol=1e-12, atol=1e-14)
    expected = fixture(name, "grad")
    for argument, gradient in zip(expected, found.gradients(*expected), strict=True):
        np.testing.assert_allclose(gradient, expected[argument], rtol=1e-11, atol=1e-14)


# -- stated gradients ------------------------------------------------------------------------------

STATED = {
    "softmax(x, over = 0)": [(3, 4)],
    "log_softmax(x)": [(3, 4)],
    "softplus(x)": [(7,)],
    "elu(x, 0.7)": [(7,)],
    "leaky_relu(x, 0.1)": [(7,)],
    "length(x)": [(3, 4)],
    "norm(x)": [(3, 4)],
    "variance(x, over = 0)": [(3, 4)],
    "variance(x, over = [0, 2])": [(3, 2, 4)],
    "soft_cross_entropy(x, y)": [(3, 4), (3, 4)],
    "logit_bce(x, y)": [(3, 4), (3, 4)],
    "cross_entropy_probabilities(0.1 + x^2, 0.2 + y^2)": [(3, 4), (3, 4)],
    "bce_probabilities(logistic(x), logistic(y))": [(3, 4), (3, 4)],
    "swish(x, 1.7)": [(7,)],
}


@pytest.mark.parametrize("text", STATED)
def test_gradients_are_those_of_the_values(text: str) -> None:
    """First and second derivatives, stated or not, against central differences."""
    arrays = [rng.uniform(0.2, 1.3, shape) * rng.choice([-1, 1], shape) for shape in STATED[text]]
    names = "xy"[: len(arrays)]
    wrt = ", ".join(names)
    plain = f"fn f({wrt}) = {text}"
    found = elaborate(plain, *arrays)
    weights = cotangent(found.values()[0].shape)
    twice = f"""fn f({wrt}) {{
  let g = grad(sum(sin({text})), [{wrt}])
  {" + ".join(f"sum(g[{i}]^2)" for i in range(len(arrays)))}
}}"""
    second = elaborate(twice, *arrays)
    for i in range(len(arrays)):
        for (gradient,), function in (
            (found.gradients(names[i]), lambda *a: (value(plain, *a) * weights).sum()),
            (second.gradients(names[i], weights=np.ones(())), lambda *a: value(twice, *a)),
        ):
            direction = rng.normal(size=arrays[i].shape)
            ends = []
            for sign in (1, -1):
                moved = [*arrays]
                moved[i] = moved[i] + sign * 1e-5 * direction
                ends.append(float(function(*moved)))
            slope = (ends[0] - ends[1]) / 2e-5
            np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=2e-6, atol=1e-8)


def test_the_gradient_of_cross_entropy_is_short() -> None:
    x, y = rng.normal(size=(6, 4)), np.array([0, 1, 2, 3, 0, 1])
    found = elaborate("fn f(x, y) = cross_entropy(x, y)", x, y, classes={1: 4})
    softmax = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    expected = (softmax - np.eye(4)[y]) / 6
    np.testing.assert_allclose(found.gradients(weights=np.ones(()))[0], expected, rtol=1e-12)


# -- activations and losses at their edges ---------------------------------------------------------


def test_slopes_at_kinks() -> None:
    zero = np.zeros(1)
    for text, slope in {
        "relu(x)": 0,
        "leaky_relu(x, 0.1)": 0.1,
        "elu(x, 0.5)": 0.5,
        "softplus(x)": 0.5,
        "mae(x, 0 * x)": 0,
        "norm(x)": 0,
        "sqrt(l2([x]) + 1)": 0,
    }.items():
        found = elaborate(f"fn f(x) = {text}", zero)
        gradient = found.gradients(weights=np.ones(found.values()[0].shape))[0]
        assert gradient == [slope], text


def test_activations_take_plain_numbers() -> None:
    for text, expected in {
        "relu(-2)": 0,
        "sigmoid(0)": 0.5,
        "gelu(0)": 0,
        "softplus(0)": math.log(2),
        "elu(-1)": math.expm1(-1),
        "leaky_relu(-2)": -0.02,
        "lerp(1, 3, 0.5)": 2,
    }.items():
        assert value(f"fn f(x) = {text}", np.zeros(1)) == pytest.approx(expected), text


def test_softmax_ignores_a_shift_and_sums_to_one() -> None:
    x = rng.normal(size=(3, 5))
    low, high = (value("fn f(x) = softmax(x)", x + c) for c in (-1e4, 1e4))
    np.testing.assert_allclose(low, high, rtol=1e-10)
    np.testing.assert_allclose(low.sum(-1), 1)
    masked = np.array([[0.0, -np.inf, 0.0]])
    assert value("fn f(x) = softmax(x)", masked).tolist() == [[0.5, 0, 0.5]]


def test_cross_entropy_of_the_lecture() -> None:
    """Probabilities with zeros where the target has none: 0 log 0 is 0."""
    p = np.eye(5)[:1]
    for q, expected in (([0.4, 0.3, 0.05, 0.05, 0.2], 0.91629), ([0.98, 0.01, 0, 0, 0.01], 0.0202)):
        q = np.array([q])
        found = elaborate("fn f(q, p) = cross_entropy_probabilities(q, p)", q, p)
        assert found.values()[0] == pytest.approx(expected, abs=1e-5)
        assert np.isfinite(found.gradients()).all()
        with np.errstate(divide="ignore"):
            logits = np.log(q)
        found = elaborate("fn f(x, p) = cross_entropy(x, p)", logits, p)
        assert found.values()[0] == pytest.approx(expected, abs=1e-5)
        assert np.isfinite(found.gradients("x")).all()


def test_cross_entropy_is_infinite_where_the_truth_is_ruled_out() -> None:
    x, y = np.array([[0.0, -np.inf]]), np.array([1])
    assert value("fn f(x, y) = cross_entropy(x, y)", x, y, classes={1: 2}) == np.inf


def test_cross_entropy_of_more_axes_and_of_one_row() -> None:
    x, y = rng.normal(size=(2, 3, 4)), rng.integers(0, 4, (2, 3))
    flat = value("fn f(x, y) = cross_entropy(x, y)", x.reshape(6, 4), y.ravel(), classes={1: 4})
    assert value("fn f(x, y) = cross_entropy(x, y)", x, y, classes={1: 4}) == pytest.approx(flat)
    row = value("fn f(x, y) = cross_entropy(x, y)", x[0, 0], y[0, 0], classes={1: 4})
    assert row == pytest.approx(np.log(np.exp(x[0, 0]).sum()) - x[0, 0, y[0, 0]])


def test_float32_stays_float32() -> None:
    x = rng.normal(size=(3, 4)).astype(np.float32)
    for text in ("gelu(x)", "softmax(x)", "softplus(x)", "l2(x)", "bce(x, 1)", "huber(x, x + 1)"):
        assert value(f"fn f(x) = {text}", x, float_type=F32).dtype == np.float32, text


def test_binary_targets() -> None:
    x, t = rng.normal(size=(4, 1)), np.array([[0], [1], [1], [0]])
    expected = np.logaddexp(0, x) - x * t
    text = "fn f(x, y) = bce(x, y)"
    assert value(text, x, t, classes={1: 2}) == pytest.approx(expected.mean())
    assert value("fn f(x) = bce(x, 0)", x) == pytest.approx(np.logaddexp(0, x).mean())
    assert value("fn f(x) = bce(x, 0.9)", x) == pytest.approx((np.logaddexp(0, x) - 0.9 * x).mean())
    exact = np.array([0.0, 1.0, 1.0])
    found = elaborate("fn f(p, t) = bce_probabilities(p, t)", exact, exact)
    assert found.values()[0] == 0
    assert np.isfinite(found.gradients("p")).all()


ERRORS = {
    "cross_entropy(x, y)": [
        ((6, 4), (6, 1), 4, "one label for each row", "drop an axis of size 1"),
        ((6, 4), (5,), 4, "one label for each row", "[6]"),
        ((6, 4), (6,), 3, "one logit for each class", "expected: [6, 3]"),
        ((6, 4), (6,), None, "takes class labels", "declared as `class[N]`"),
        ((6, 4), (6, 1), 0.0, "takes class labels", "found: f64[6, 1]"),
        ((6, 4), (6, 3), 0.0, "or a distribution", "expected: [6, 4]"),
        ((6, 4), (5, 4), 0.0, "or a distribution", "expected: [6, 4]"),
        ((6, 4), (6,), 0.0, "or a distribution", "found: f64[6]"),
    ],
    "accuracy(x, y)": [
        ((6, 4), (6, 1), 4, "one label for each row", "drop an axis of size 1"),
        ((6, 4), (6,), 5, "can't take this", "`C` = 4"),
        ((6, 4), (6, 4), 0.0, "can't take this", "a class label"),
    ],
    "bce(x, y)": [
        ((6, 1), (6,), 0.0, "one target for each element", "drop an axis of size 1"),
        ((6,), (6,), 3, "labels of two classes", "class[2]"),
    ],
    "mse(x, y)": [
        ((6, 1), (6,), 0.0, "can't take this", "drop the axis of size 1"),
        ((6,), (6,), 3, "can't take this", "`one_hot(y)`"),
    ],
}


@pytest.mark.parametrize(("call", "case"), [(c, case) for c in ERRORS for case in ERRORS[c]])
def test_targets_that_dont_fit(call: str, case: tuple[tuple[int, ...], ...]) -> None:
    logits, target, kind, message, detail = case
    y = np.zeros(target, np.float64 if isinstance(kind, float) else np.int64)
    labels = {1: kind} if isinstance(kind, int) else {}
    with pytest.raises(CompileError) as caught:
        elaborate(f"fn f(x, y) = {call}", np.zeros(logits), y, classes=labels)
    text = str(caught.value)
    assert message in text
    assert detail in text
    assert caught.value.diagnostic.span is not None
    assert caught.value.diagnostic.span.source.name == "test.weft"


# -- metrics, regularisers, rules ------------------------------------------------------------------


def test_metrics() -> None:
    x = np.array([[1.0, 2, 0], [5, 5, 0], [0, 0, 1], [3, 1, 2]])
    y = np.array([1, 0, 1, 0])
    assert value("fn f(x, y) = accuracy(x, y)", x, y, classes={1: 3}) == 0.75
    logits, truth = np.array([-1.0, 2, 0, 3]), np.array([0, 1, 1, 0])
    assert value("fn f(x, y) = binary_accuracy(x, y)", logits, truth, classes={1: 2}) == 0.5
    assert value("fn f(x) = binary_accuracy(x, 1)", logits) == 0.5


def test_mean_iou() -> None:
    found, y = np.array([[0, 0, 1], [1, 3, 0]]), np.array([[0, 1, 1], [1, 1, 0]])
    x = np.eye(5)[found]
    # Class 0: 2 of 3, class 1: 2 of 4, class 3: 0 of 1; classes 2 and 4 are nowhere.
    expected = (2 / 3 + 2 / 4 + 0) / 3
    assert value("fn f(x, y) = mean_iou(x, y)", x, y, classes={1: 5}) == pytest.approx(expected)
    with pytest.raises(CompileError, match="one label for each row"):
        elaborate("fn f(x, y) = mean_iou(x, y)", x, y[0], classes={1: 5})


def test_panoptic_quality() -> None:
    """Two segments match: by 3 of 4 pixels and, of the wrong class, by all. Two are left."""
    found, wanted = np.zeros((1, 3, 2, 4)), np.zeros((1, 4, 2, 4))
    found[0, 0, 0, :3] = found[0, 1, 1, :2] = 1
    wanted[0, 0, 0, :4] = wanted[0, 1, 1, :2] = wanted[0, 2, 1, 3] = 1
    same = np.ones((1, 3, 4))
    same[0, 1, 1] = 0
    text = "fn f(a, b, c) = panoptic_quality(a, b, c)"
    assert value(text, found, wanted, same) == pytest.approx(3 / 4 / ((2 + 3) / 2))
    assert value(text, found, wanted, np.ones((1, 3, 4))) == pytest.approx(7 / 4 / (5 / 2))
    assert value(text, 0 * found, 0 * wanted, same) == 0
    found[0, 0, 0, 2] = 0  # half of it is not more than half
    assert value(text, found, wanted, same) == 0


def test_regularisers() -> None:
    w, v = rng.normal(size=(3, 4)), rng.normal(size=5)
    for text, expected, slope in (
        ("l1", np.abs(w).sum(), np.sign(w)),
        ("l2", (w**2).sum(), 2 * w),
        ("half_l2", (w**2).sum() / 2, w),
        ("norm", np.sqrt((w**2).sum()), w / np.sqrt((w**2).sum())),
    ):
        found = elaborate(f"fn f(w) = {text}(w)", w)
        np.testing.assert_allclose(found.values()[0], expected)
        np.testing.assert_allclose(found.gradients(weights=np.ones(()))[0], slope)
    both = "fn f(w, v) = {}([w, v])"
    assert value(both.format("l1"), w, v) == pytest.approx(np.abs(w).sum() + np.abs(v).sum())
    assert value(both.format("l2"), w, v) == pytest.approx((w**2).sum() + (v**2).sum())
    assert value("fn f(w) = l2([])", w) == 0


def test_a_penalty_on_the_weights_of_a_model() -> None:
    text = "model net = dense(2)\nfn f(x) { let y = net(x)\n sum(y) + 0.5 * l2(net.weights) }"
    x, w = rng.normal(size=(3, 4)), rng.normal(size=(4, 2))
    found = elaborate(text, x)
    (gradient,) = found.gradients("net.w", weights=np.ones(()), states={"net.w": w})
    np.testing.assert_allclose(gradient, x.sum(0)[:, None] + w)


def test_clipping_and_averaging() -> None:
    g = np.array([3.0, -4.0])
    assert value("fn f(g) = global_norm(g, 1)", g) == pytest.approx(g / 5)
    assert value("fn f(g) = global_norm(g, 9.5)", g) == pytest.approx(g)
    assert value("fn f(g) = global_norm(g, 1)", 0 * g).tolist() == [0, 0]
    assert value("fn f(g) = by_value(g, 3.5)", g).tolist() == [3, -3.5]
    averaged = value("fn f(a, p) = ema(a, p, 0.75)", g, np.ones(2))
    assert averaged == pytest.approx(0.75 * g + 0.25)


def test_moments() -> None:
    x = rng.normal(size=(3, 4, 5))
    mean, var = elaborate("fn f(x: f32[B, C, S]) = moments(x, over = [B, S])", x).values()
    np.testing.assert_allclose(mean, x.mean((0, 2)))
    np.testing.assert_allclose(var, x.var((0, 2)))
    for n, expected in ((4, 4.0), (1, 3.0)):
        assert value(f"fn f(x) = unbiased(3, {n})", x) == expected


# -- the library as text ---------------------------------------------------------------------------


def test_the_library_is_formatted_and_documented() -> None:
    for name, (source, _, _) in library().index.items():
        assert format_source(source) == source.text, source.name
        _, declaration = library().find(name) or (None, None)
        assert declaration is not None
        assert declaration.doc or name == "pi", f"{name} has no comment above it"
        assert name not in BUILTINS, f"{name} hides a built-in function"


def test_calls_stay_whole_for_backends_that_have_them() -> None:
    node = elaborate("fn f(x) = gelu(x)", np.zeros(3)).results[0].node
    assert node.op.name == "call"
    assert node.attributes["name"] == "gelu"
