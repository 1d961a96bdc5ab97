"""Activations, losses, divergences and metrics: against PyTorch's results and by formulas."""

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
    refuses,
    value,
)

Array = np.ndarray
rng = np.random.default_rng(0)

# Cases of make_functions.py, as Weft says them.
CASES = {
    "identity": "identity(x)",
    "relu6": "relu6(x)",
    "absolute": "absolute(x)",
    "log_sigmoid": "log_sigmoid(x)",
    "hard_sigmoid": "hard_sigmoid(x)",
    "hard_tanh": "hard_tanh(x)",
    "hard_tanh_wide": "hard_tanh(x, -2, 3)",
    "softsign": "softsign(x)",
    "hard_swish": "hard_swish(x)",
    "mish": "mish(x)",
    "celu": "celu(x)",
    "celu_half": "celu(x, 0.5)",
    "selu": "selu(x)",
    "softmin": "softmin(x)",
    "softmin_first": "softmin(x, over = 0)",
    "glu": "glu(x)",
    "smooth_l1": "smooth_l1(x, y, beta = 0.7)",
    "gaussian_nll": "gaussian_nll(x, v, y)",
    "gaussian_nll_full": "gaussian_nll(x, v, y, full = true)",
    "gaussian_nll_log": "gaussian_nll_log(x, v, y)",
    "log_loss": "log_loss(x, y)",
    "nll": "nll(x, y)",
    "cross_entropy_smooth": "cross_entropy_smooth(x, y)",
    "cross_entropy_smooth_soft": "cross_entropy_smooth(x, y, 0.2)",
    "entropy": "entropy(x)",
    "entropy_of_logits": "entropy_of_logits(x)",
    "kl_divergence": "kl_divergence(x, y)",
    "kl_of_logits": "kl_of_logits(x, y)",
    "kl_to_normal": "kl_to_normal(x, y)",
    "kl_of_bernoulli": "kl_of_bernoulli(x, y)",
    "multi_hinge": "multi_hinge(x, y, 1.5)",
    "distance": "distance(x, y)",
    "triplet": "triplet(x, y, z, margin = 2)",
    "cosine_embedding": "cosine_embedding(x, y, s, margin = 0.1)",
}
LAYERS = {"prelu": "prelu()", "prelu_per_channel": "prelu_per_channel()"}


def test_every_stored_case_is_tested() -> None:
    assert fixture_names("functions") == {*CASES, *LAYERS}


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_functions_agree_with_pytorch(name: str, symbolic: bool) -> None:
    inputs = fixture(name, "in", "functions")
    text = f"fn f({', '.join(inputs)}) = {CASES[name]}"
    labels = {
        i: inputs["x"].shape[-1] for i, a in enumerate(inputs.values()) if a.dtype == np.int64
    }
    found = elaborate(text, *inputs.values(), classes=labels, symbolic=symbolic)
    expected = fixture_result(name, "functions")
    np.testing.assert_allclose(found.values()[0], expected, rtol=1e-11, atol=1e-14)
    slopes = fixture(name, "grad", "functions")
    for argument, gradient in zip(slopes, found.gradients(*slopes), strict=True):
        np.testing.assert_allclose(gradient, slopes[argument], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", LAYERS)
def test_activations_with_parameters_agree_with_pytorch(name: str) -> None:
    inputs = fixture(name, "in", "functions")
    found = elaborate(f"model net = {LAYERS[name]}\nfn f(x) = net(x)", inputs.pop("x"))
    expected = fixture_result(name, "functions")
    np.testing.assert_allclose(found.values(inputs)[0], expected, rtol=1e-12)
    slopes = fixture(name, "grad", "functions")
    for argument, gradient in zip(slopes, found.gradients(*slopes, states=inputs), strict=True):
        np.testing.assert_allclose(gradient, slopes[argument], rtol=1e-12)


# -- gradients against differences -----------------------------------------------------------------

ONE, TWO = [(3, 4)], [(3, 4), (3, 4)]
SMOOTH = {
    "relu_slope_one(x)": ONE,
    "relu6(4 * x)": ONE,
    "log_sigmoid(x)": ONE,
    "hard_sigmoid(x)": ONE,
    "hard_tanh(x, -0.5, 2)": ONE,
    "softsign(x)": ONE,
    "hard_swish(x)": ONE,
    "mish(x)": ONE,
    "celu(x, 0.7)": ONE,
    "selu(x)": ONE,
    "glu(x)": ONE,
    "squared_error(x, y)": TWO,
    "half_squared_error(x, y)": TWO,
    "smooth_l1(x, y, 0.3)": TWO,
    "gaussian_nll(x, y^2, x * y)": TWO,
    "gaussian_nll_log(x, y, x * y)": TWO,
    "binary_focal(x, logistic(y))": TWO,
    "binary_focal(x, 1, gamma = 0.5, alpha = 0.7)": ONE,
    "dice(logistic(x), logistic(y))": TWO,
    "dice_squared(logistic(x), logistic(y), smooth = 0.1)": TWO,
    "entropy(softmax(x))": ONE,
    "entropy_of_logits(x)": ONE,
    "kl_of_logits(x, softmax(y))": TWO,
    "hinge(x, sign(y))": ONE,
    "squared_hinge(x, 2 * y)": TWO,
    "contrastive(x, y, stack([1, 0, 0]), margin = 4)": TWO,
    "cosine_similarity(x, y)": TWO,
    "p_norm(x, 3)": ONE,
    "p_norm([x, y], 1.5)": TWO,
    "elastic(x, 0.3)": ONE,
    "sparsity(logistic(x))": ONE,
    "erf_inverse(0.5 * x)": ONE,
}


@pytest.mark.parametrize("text", SMOOTH)
def test_gradients_are_those_of_the_values(text: str) -> None:
    """First and second derivatives against central differences, away from kinks."""
    draws = np.random.default_rng(1)
    arrays = [draws.uniform(0.2, 1.3, s) * draws.choice([-1, 1], s) for s in SMOOTH[text]]
    if text.startswith("hinge"):
        text = text.replace("y", "sin(5 * stop_gradient(x))")
    names = "xy"[: len(arrays)]
    wrt = ", ".join(names)
    plain = f"fn f({wrt}) = {text}"
    found = elaborate(plain, *arrays)
    weights = cotangent(found.values()[0].shape)
    squares = " + ".join(f"sum(g[{i}]^2)" for i in range(len(arrays)))
    twice = f"fn f({wrt}) {{\n  let g = grad(sum(sin({text})), [{wrt}])\n  {squares}\n}}"
    second = elaborate(twice, *arrays)
    for i, name in enumerate(names):
        for (gradient,), function in (
            (found.gradients(name), lambda *a: (value(plain, *a) * weights).sum()),
            (second.gradients(name, weights=np.ones(())), lambda *a: value(twice, *a)),
        ):
            direction = draws.normal(size=arrays[i].shape)
            ends = []
            for sign in (1, -1):
                moved = [*arrays]
                moved[i] = moved[i] + sign * 1e-5 * direction
                ends.append(float(function(*moved)))
            slope = (ends[0] - ends[1]) / 2e-5
            np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=5e-6, atol=1e-8)


# -- activations -----------------------------------------------------------------------------------


def slope(text: str, point: float) -> float:
    found = elaborate(f"fn f(x) = {text}", np.array([point]))
    return float(found.gradients(weights=np.ones(1))[0][0])


def test_slopes_at_kinks_are_those_that_are_stated() -> None:
    for text, expected in {
        "relu(x)": 0,
        "relu_slope_one(x)": 1,
        "relu6(x)": 0,
        "absolute(x)": 0,
        "celu(x, 0.2)": 1,
        "hard_tanh(x, 0, 1)": 0,
        "softsign(x)": 1,
        "mish(x)": 0.6,
    }.items():
        assert slope(text, 0.0) == pytest.approx(expected), text
    assert slope("relu_slope_one(x)", -1e-300) == 0


def test_relus_are_cases_of_one_formula() -> None:
    """max(0, z) + a min(0, z): relu, leaky relu and absolute value for a of 0, 0.01 and -1."""
    z = rng.normal(size=50)
    for a, text in ((0, "relu(x)"), (0.01, "leaky_relu(x)"), (-1, "absolute(x)")):
        expected = np.maximum(z, 0) + a * np.minimum(z, 0)
        np.testing.assert_allclose(value(f"fn f(x) = {text}", z), expected)
        leaky = value(f"fn f(x) = leaky_relu(x, {a})", z)
        np.testing.assert_allclose(leaky, expected)


def test_activations_stay_finite_far_out() -> None:
    x = np.array([-1000.0, 1000.0])
    for text, expected in {
        "tanh(x)": [-1, 1],
        "sigmoid(x)": [0, 1],
        "log_sigmoid(x)": [-1000, 0],
        "softplus(x)": [0, 1000],
        "mish(x)": [0, 1000],
        "swish(x)": [0, 1000],
        "selu(x)": [-1.0507009873554805 * 1.6732632423543772, 1050.7009873554805],
        "celu(x, 0.001)": [-0.001, 1000],
    }.items():
        found = elaborate(f"fn f(x) = {text}", x)
        np.testing.assert_allclose(found.values()[0], expected, atol=1e-300, err_msg=text)
        assert np.isfinite(found.gradients()).all(), text


def test_selu_keeps_mean_and_variance() -> None:
    x = value("fn f(x) = normal([200000])", np.zeros(1))
    y = value("fn f(x) = selu(x)", x)
    assert y.mean() == pytest.approx(0, abs=0.01)
    assert y.var() == pytest.approx(1, abs=0.02)


def layer(text: str, *arrays: object, **options: object):  # type: ignore[no-untyped-def]
    return elaborate(f"model net = {text}\nfn f(x) = net(x)", *arrays, **options)  # type: ignore[arg-type]


def test_prelu_has_the_slopes_that_it_states() -> None:
    x = rng.normal(size=(5, 3, 2))
    for text, shape in (
        ("prelu()", ()),
        ("prelu_per_channel()", (3,)),
        ("prelu_per_unit()", (3, 2)),
    ):
        found = layer(text, x, symbolic=True)
        np.testing.assert_array_equal(found.initial["net.slope"], np.full(shape, 0.25))
        a = rng.normal(size=shape)
        wide = a.reshape(a.shape + (1,) * (len(shape) == 1))
        expected = np.maximum(x, 0) + wide * np.minimum(x, 0)
        np.testing.assert_allclose(found.values({"net.slope": a})[0], expected)
        (gradient,) = found.gradients("net.slope", weights=np.ones(x.shape))
        over = {0: (0, 1, 2), 1: (0, 2), 2: (0,)}[len(shape)]
        np.testing.assert_allclose(gradient, np.minimum(x, 0).sum(over))


def test_swish_learns_its_beta() -> None:
    x = rng.normal(size=(4, 3))
    found = layer("swish_learned()", x)
    np.testing.assert_allclose(found.values()[0], value("fn f(x) = silu(x)", x))
    (gradient,) = found.gradients("net.beta", weights=np.ones(x.shape))
    s = 1 / (1 + np.exp(-x))
    assert gradient == pytest.approx((x**2 * s * (1 - s)).sum())


def test_maxout_is_the_largest_of_its_pieces() -> None:
    x = rng.normal(size=(6, 4))
    found = layer("maxout(5, pieces = 3)", x)
    state = found.initial
    names = ["net.dense", "net.dense_2", "net.dense_3"]
    pieces = np.stack([x @ state[f"{n}.w"] + state[f"{n}.b"] for n in names])
    np.testing.assert_allclose(found.values()[0], pieces.max(0), rtol=1e-12)
    weights = sum(a.size for n, a in state.items() if n.startswith("net."))
    assert weights == 3 * (4 * 5 + 5)
    gradients = found.gradients(*(f"{n}.b" for n in names), weights=np.ones((6, 5)))
    expected = [(pieces.argmax(0) == k).sum(0) for k in range(3)]
    np.testing.assert_array_equal(gradients, expected)
    assert list(layer("maxout(5, bias = false)", x).initial)[2:] == ["net.dense.w", "net.dense_2.w"]


def test_rbf_units_measure_distances() -> None:
    x = rng.normal(size=(6, 4))
    c, s = rng.normal(size=(3, 4)), np.array([0.5, 1.0, -2.0])
    found = layer("rbf(3)", x, symbolic=True)
    squares = ((x[:, None] - c) ** 2).sum(-1)
    out = found.values({"net.c": c, "net.s": s})[0]
    np.testing.assert_allclose(out, np.exp(-squares / (2 * s**2)), rtol=1e-12)
    assert found.initial["net.s"].tolist() == [1, 1, 1]
    at_centre = layer("rbf(3)", c).values({"net.c": c, "net.s": s})[0]
    np.testing.assert_array_equal(np.diag(at_centre), 1)


# -- losses ----------------------------------------------------------------------------------------


def test_log_loss_is_binary_cross_entropy_with_other_labels() -> None:
    x, s = 3 * rng.normal(size=(5, 2)), np.sign(rng.normal(size=(5, 2)))
    log_loss = value("fn f(x, s) = log_loss(x, s)", x, s)
    assert log_loss == pytest.approx(value("fn f(x, t) = bce(x, t)", x, (s + 1) / 2))
    assert log_loss == pytest.approx(np.log1p(np.exp(-s * x)).mean())
    assert log_loss > 0
    assert value("fn f(x, s) = log_loss(x, s)", np.array([1e4]), np.array([-1.0])) == 1e4


def test_squared_errors() -> None:
    x, y = rng.normal(size=(5, 2, 3)), rng.normal(size=(5, 2, 3))
    total = ((x - y) ** 2).sum((1, 2)).mean()
    assert value("fn f(x, y) = squared_error(x, y)", x, y) == pytest.approx(total)
    found = elaborate("fn f(x, y) = half_squared_error(x, y)", x, y)
    assert found.values()[0] == pytest.approx(total / 2)
    np.testing.assert_allclose(found.gradients("x", weights=np.ones(()))[0], (x - y) / 5)
    ones = np.ones((5, 2, 3))
    normal = value("fn f(x, v, y) = gaussian_nll(x, v, y, full = true)", x, ones, y)
    assert 6 * normal == pytest.approx(total / 2 + 3 * math.log(2 * math.pi))


def test_focal_losses() -> None:
    x, y = 3 * rng.normal(size=(8, 4)), rng.integers(0, 4, 8)
    log_q = x - np.log(np.exp(x).sum(1, keepdims=True))
    log_q = log_q[np.arange(8), y]
    for gamma in (0, 0.5, 2):
        text = f"fn f(x, y) = focal(x, y, {gamma})"
        expected = -((1 - np.exp(log_q)) ** gamma * log_q).mean()
        assert value(text, x, y, classes={1: 4}) == pytest.approx(expected)
        certain = elaborate(text, np.array([[100.0, 0, -1000]]), np.array([0]), classes={1: 3})
        assert certain.values()[0] == 0
        assert np.isfinite(certain.gradients()).all()
    logits, truth = x[:, 0], y % 2
    q = 1 / (1 + np.exp(-logits))
    q = np.where(truth == 1, q, 1 - q)
    a = np.where(truth == 1, 0.3, 0.7)
    expected = -(a * (1 - q) ** 1.5 * np.log(q)).mean()
    text = "fn f(x, y) = binary_focal(x, y, 1.5, 0.3)"
    assert value(text, logits, truth, classes={1: 2}) == pytest.approx(expected)
    half = value("fn f(x, y) = binary_focal(x, y, 0, 0.5)", logits, truth, classes={1: 2})
    assert half == pytest.approx(-np.log(q).mean() / 2)
    far = elaborate("fn f(x) = binary_focal(x, 0)", np.array([1000.0, -1000.0]))
    assert far.values()[0] == pytest.approx(0.75 * 500)
    assert np.isfinite(far.gradients()).all()


def test_dice_is_the_overlap() -> None:
    p, t = np.array([[1.0, 1, 0, 0], [0, 0, 0, 0]]), np.array([[1.0, 0, 1, 0], [0, 0, 0, 0]])
    expected = ((1 - 3 / 5) + 0) / 2
    for name in ("dice", "dice_squared"):
        assert value(f"fn f(p, t) = {name}(p, t)", p, t) == pytest.approx(expected)
    soft = np.array([[0.5, 0.25]])
    one = np.ones((1, 2))
    assert value("fn f(p, t) = dice(p, t, 0)", soft, one) == pytest.approx(1 - 1.5 / 2.75)
    squared = value("fn f(p, t) = dice_squared(p, t, 0)", soft, one)
    assert squared == pytest.approx(1 - 1.5 / 2.3125)


def test_hinges() -> None:
    x, s = np.array([2.0, 0.5, -1.0, -3.0]), np.array([1.0, 1, 1, -1])
    assert value("fn f(x, s) = hinge(x, s)", x, s) == pytest.approx((0 + 0.5 + 2 + 0) / 4)
    assert value("fn f(x, s) = squared_hinge(x, s)", x, s) == pytest.approx((0.25 + 4) / 4)
    logits, y = np.array([[1.0, 2, 0.5], [5, 1, 0]]), np.array([0, 0])
    for name, expected in (("multi_hinge", (2 + 0.5) / 2), ("multi_hinge_largest", 2 / 2)):
        found = value(f"fn f(x, y) = {name}(x, y)", logits, y, classes={1: 3})
        assert found == pytest.approx(expected), name


def test_losses_of_pairs() -> None:
    a, b = np.array([[0.0, 0], [0, 0], [1, 1]]), np.array([[3.0, 4], [0.3, 0.4], [1, 1]])
    same = np.array([1.0, 0, 0])
    text = "fn f(a, b, s) = contrastive(a, b, s, margin = 2)"
    expected = (25 / 2 + 1.5**2 / 2 + 4 / 2) / 3
    found = elaborate(text, a, b, same)
    assert found.values()[0] == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(found.gradients()[0]).all()
    cosines = value(
        "fn f(a, b) = cosine_similarity(a, b)", b, np.array([[3.0, 4], [-4, 3], [0, 0]])
    )
    np.testing.assert_allclose(cosines, [1, 0, 0], atol=1e-9)


# -- entropies -------------------------------------------------------------------------------------


def shares(*shape: int) -> Array:
    raw = rng.uniform(0.05, 1, shape)
    return raw / raw.sum(-1, keepdims=True)


def test_cross_entropy_is_entropy_plus_divergence() -> None:
    p, q = shares(5, 4), shares(5, 4)
    p[0] = [0, 1, 0, 0]
    q[0] = [0, 0.5, 0.5, 0]
    both = "fn f(q, p) = entropy(p) + kl_divergence(q, p)"
    whole = value("fn f(q, p) = cross_entropy_probabilities(q, p)", q, p)
    assert value(both, q, p) == pytest.approx(whole, rel=1e-14)
    assert np.isfinite(elaborate(both, q, p).gradients("q")).all()
    assert value("fn f(q, p) = kl_divergence(q, p)", p, p) == 0
    assert value("fn f(q, p) = kl_divergence(q, p)", q, p) > 0
    ruled_out = np.array([[0.5, 0.5, 0, 0]])
    assert value("fn f(q, p) = kl_divergence(q, p)", ruled_out, p[1:2]) == np.inf
    x = 3 * rng.normal(size=(5, 4))
    logits = "fn f(x, p) = entropy(p) + kl_of_logits(x, p) - cross_entropy(x, p)"
    assert value(logits, x, p) == pytest.approx(0, abs=1e-14)


def test_entropy_at_its_ends() -> None:
    for p, expected in (([1.0, 0, 0, 0], 0), ([0.25] * 4, math.log(4)), ([0.5, 0.5, 0, 0], 0.6931)):
        assert value("fn f(p) = entropy(p)", np.array([p])) == pytest.approx(expected, abs=1e-4)
    found = elaborate("fn f(x) = entropy_of_logits(x)", np.array([[0.0, 1000, -np.inf]]))
    assert found.values()[0] == 0


def test_maximum_likelihood_is_least_cross_entropy() -> None:
    """-log q of the data is the cross-entropy with its empirical distribution."""
    x, y = np.tile(rng.normal(size=(1, 4)), (9, 1)), rng.integers(0, 4, 9)
    counts = np.bincount(y, minlength=4) / 9
    likelihood = value("fn f(x, y) = nll(log_softmax(x), y)", x, y, classes={1: 4})
    assert likelihood == pytest.approx(
        value("fn f(x, p) = cross_entropy(x, p)", x[:1], counts[None])
    )
    assert likelihood == pytest.approx(
        value("fn f(x, y) = cross_entropy(x, y)", x, y, classes={1: 4})
    )


def test_the_mean_of_minibatch_gradients_is_the_gradient() -> None:
    x, w, y = rng.normal(size=(12, 4)), rng.normal(size=(4, 3)), rng.integers(0, 3, 12)
    text = "fn f(x, w, y) = cross_entropy(x @ w, y)"

    def slope(rows: slice) -> Array:
        found = elaborate(text, x[rows], w, y[rows], classes={2: 3})
        return found.gradients("w", weights=np.ones(()))[0]

    parts = [slope(slice(i, i + 3)) for i in range(0, 12, 3)]
    np.testing.assert_allclose(np.mean(parts, 0), slope(slice(None)), rtol=1e-12)


# -- metrics and penalties -------------------------------------------------------------------------


def test_top_k_accuracy() -> None:
    x = np.array([[1.0, 2, 3, 0], [5, 5, 0, 1], [0, 0, 1, 2], [3, 1, 2, 9]])
    y = np.array([1, 0, 0, 1])
    for k, expected in ((1, 0.25), (2, 0.5), (3, 0.75), (4, 1)):
        text = f"fn f(x, y) = top_k_accuracy(x, y, {k})"
        assert value(text, x, y, classes={1: 4}, symbolic=True) == expected
    assert value("fn f(x, y) = zero_one(x, y)", x, y, classes={1: 4}) == 0.75


def test_precision_recall_f1() -> None:
    x, t = np.array([1.0, 2, -1, -1, 3, -2]), np.array([1, 0, 1, 0, 1, 1])
    for name, expected in (("precision", 2 / 3), ("recall", 2 / 4), ("f1", 4 / 7)):
        text = f"fn f(x, t) = {name}(x, t)"
        assert value(text, x, t, classes={1: 2}) == pytest.approx(expected), name
        assert value(text, -np.ones(3), np.zeros(3, np.int64), classes={1: 2}) == 0


def test_metrics_of_regression() -> None:
    x, y = rng.normal(size=(9, 2)), rng.normal(size=(9, 2))
    assert value("fn f(x, y) = rmse(x, y)", x, y) == pytest.approx(np.sqrt(((x - y) ** 2).mean()))
    expected = 1 - ((x - y) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert value("fn f(x, y) = r2(x, y)", x, y) == pytest.approx(expected)
    assert value("fn f(x, y) = r2(y, y)", x, y) == 1
    assert value("fn f(x, y) = r2(x, y)", y, np.zeros_like(y)) == pytest.approx(1 - (y**2).sum())


def test_penalties() -> None:
    w, v = rng.normal(size=(3, 4)), rng.normal(size=5)
    ones, twos = np.abs(w).sum() + np.abs(v).sum(), (w**2).sum() + (v**2).sum()
    for text, expected, gradient in (
        ("half_l1([w, v])", ones / 2, np.sign(w) / 2),
        ("elastic([w, v], 0.3)", 0.3 * ones + 0.7 * twos, 0.3 * np.sign(w) + 1.4 * w),
        ("half_elastic([w, v], 0.3)", 0.3 * ones + 0.35 * twos, 0.3 * np.sign(w) + 0.7 * w),
        ("p_norm([w, v], 1)", ones, np.sign(w)),
        ("p_norm([w, v], 2)", twos**0.5, w / twos**0.5),
        ("only_training(l1([w, v]))", ones, np.sign(w)),
    ):
        found = elaborate(f"fn f(w, v) = {text}", w, v)
        assert found.values()[0] == pytest.approx(expected), text
        np.testing.assert_allclose(found.gradients("w", weights=np.ones(()))[0], gradient)
    assert value("fn f(w) = only_training(l1(w))", w, training=False) == 0
    for p in (1, 1.5, 2):
        zero = elaborate(f"fn f(w) = p_norm(w, {p})", np.zeros(3))
        assert zero.values()[0] == 0
        assert zero.gradients(weights=np.ones(()))[0].tolist() == [0, 0, 0]
    h = np.array([[0.05, 0.2], [0.05, 0.4]])
    expected = 0.05 * math.log(0.05 / 0.3) + 0.95 * math.log(0.95 / 0.7)
    assert value("fn f(h) = sparsity(h)", h) == pytest.approx(expected)


def test_arguments_that_dont_fit() -> None:
    x = np.zeros((4, 3))
    assert "even size" in refuses("fn f(x) = glu(x)", x)
    assert "1 or more" in refuses("fn f(x) = p_norm(x, 0.5)", x)
    model = "model net = maxout(2, pieces = 1)\nfn f(x) = net(x)"
    assert "several pieces" in refuses(model, x)
    y = np.zeros((4, 1), np.int64)
    for call in ("nll(x, y)", "multi_hinge(x, y)", "top_k_accuracy(x, y, 2)"):
        assert "one label for each row" in refuses(f"fn f(x, y) = {call}", x, y, classes={1: 3})


def test_erf_inverse() -> None:
    y = np.linspace(-0.9999, 0.9999, 2001)
    x = value("fn f(y) = erf_inverse(y)", y)
    back = value("fn f(x) = erf(x)", x)
    np.testing.assert_allclose(back, y, atol=1e-13)
