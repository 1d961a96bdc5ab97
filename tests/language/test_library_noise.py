"""Dropout, noise and augmentation: what they draw, what they keep on average, both phases."""

from __future__ import annotations

import numpy as np
import pytest

from language.elaborated import SEED, elaborate, refuses, value

Array = np.ndarray
rng = np.random.default_rng(0)
WIDE = np.ones((200, 100))


def layer(text: str, *arrays: object, **options: object):  # type: ignore[no-untyped-def]
    return elaborate(f"model net = {text}\nfn f(x) = net(x)", *arrays, **options)  # type: ignore[arg-type]


def both(text: str, x: Array) -> tuple[Array, Array]:
    """The layer in training and in evaluation."""
    return layer(text, x).values()[0], layer(text, x, training=False).values()[0]


# text: the values that training gives to 1, the share of zeros, the value in evaluation.
DROPOUTS = {
    "dropout(0.3)": ({0, 1 / 0.7}, 0.3, 1),
    "dropout_keep(0.3)": ({0, 1 / 0.3}, 0.7, 1),
    "dropout_vanilla(0.3)": ({0, 1}, 0.7, 0.3),
    "dropout_count(25)": ({0, 100 / 75}, 0.25, 1),
    "dropout_always(0.3)": ({0, 1 / 0.7}, 0.3, None),
    "dropout_channels(0.3)": ({0, 1 / 0.7}, 0.3, 1),
}


@pytest.mark.parametrize("text", DROPOUTS)
def test_dropouts_keep_the_expectation(text: str) -> None:
    """Training is on average what evaluation gives, whichever probability is meant."""
    values, zeros, evaluation = DROPOUTS[text]
    kept, evaluated = both(text, WIDE)
    np.testing.assert_allclose(sorted(np.unique(kept)), sorted(values))
    assert (kept == 0).mean() == pytest.approx(zeros, abs=0.015)
    if evaluation is None:
        np.testing.assert_array_equal(kept, evaluated)
        evaluation = 1
    else:
        np.testing.assert_array_equal(evaluated, np.full_like(WIDE, evaluation))
    assert kept.mean() == pytest.approx(evaluation, rel=0.045)  # four deviations
    gradient = layer(text, WIDE).gradients(weights=np.ones_like(WIDE))[0]
    np.testing.assert_array_equal(gradient, kept)
    later = layer(text, WIDE).values({"step": np.int64(4)})[0]
    assert 0.2 < (later != kept).mean() < 0.6


def test_the_same_draws_mean_the_same_dropout() -> None:
    """Drop 0.3 is keep 0.7: the masks are of one law, told apart by what the number says."""
    dropped = layer("dropout(0.3)", WIDE).values()[0]
    kept = layer("dropout_keep(0.7)", WIDE).values()[0]
    assert dropped.max() == pytest.approx(kept.max())
    assert (dropped == 0).mean() == pytest.approx((kept == 0).mean(), abs=0.02)


def test_dropout_before_an_activation() -> None:
    x = rng.normal(size=(100, 50))
    kept, evaluated = both("dropout_pre_activation(sigmoid, 0.8)", x)
    dropped = kept == 0.5
    assert dropped.mean() == pytest.approx(0.2, abs=0.03)
    np.testing.assert_allclose(kept[~dropped], 1 / (1 + np.exp(-x[~dropped])))
    np.testing.assert_allclose(evaluated, 1 / (1 + np.exp(-0.8 * x)))
    text = """
layer both_ways(x) { x |> dropout_pre_activation(relu, 0.8) }
model net = both_ways()
fn f(x) = net(x)
"""
    assert (elaborate(text, x).values()[0] >= 0).all()


def test_a_fixed_count_of_units_is_dropped() -> None:
    kept = layer("dropout_count(7)", np.ones((300, 2, 20)), symbolic=True).values()[0]
    np.testing.assert_array_equal((kept == 0).sum(-1), 7)
    np.testing.assert_allclose(kept.sum(-1), 20)
    np.testing.assert_allclose((kept == 0).mean((0, 1)), 0.35, atol=0.08)
    np.testing.assert_array_equal(layer("dropout_count(0)", WIDE).values()[0], WIDE)


def test_whole_channels_and_whole_examples_are_dropped() -> None:
    x = np.ones((60, 40, 3, 2))
    kept = layer("dropout_channels(0.4)", x, symbolic=True).values()[0]
    np.testing.assert_array_equal(kept, np.broadcast_to(kept[:, :, :1, :1], x.shape))
    assert (kept == 0).mean() == pytest.approx(0.4, abs=0.03)
    x = np.ones((2000, 3, 2))
    kept = layer("drop_path(0.4)", x, symbolic=True).values()[0]
    np.testing.assert_array_equal(kept, np.broadcast_to(kept[:, :1, :1], x.shape))
    assert (kept == 0).mean() == pytest.approx(0.4, abs=0.04)
    assert kept.max() == pytest.approx(1 / 0.6)
    np.testing.assert_array_equal(layer("drop_path(0.4)", x, training=False).values()[0], x)


def test_stochastic_depth_tosses_one_coin_a_step() -> None:
    x = rng.normal(size=(4, 3))
    found = layer("stochastic_depth(0.6)", x)
    kept = []
    for step in range(300):
        out = found.values({"step": np.int64(step)})[0]
        assert (out == 0).all() or (out == x).all()
        kept.append((out == x).all())
    assert np.mean(kept) == pytest.approx(0.6, abs=0.1)
    evaluated = layer("stochastic_depth(0.6)", x, training=False).values()[0]
    np.testing.assert_allclose(evaluated, 0.6 * x)


def test_gaussian_dropout_has_the_moments_of_dropout() -> None:
    kept, evaluated = both("dropout_gaussian(0.3)", np.ones((300, 300)))
    assert kept.mean() == pytest.approx(1, abs=0.01)
    assert kept.var() == pytest.approx(0.3 / 0.7, rel=0.02)
    assert (evaluated == 1).all()


def test_drop_connect_drops_weights() -> None:
    x, w, bias = np.eye(80), rng.uniform(1, 2, (80, 50)), rng.normal(size=50)
    found = layer("drop_connect(50, keep = 0.7)", x)
    masked = found.values({"net.w": w, "net.b": bias})[0] - bias
    mask = masked / w
    assert set(np.unique(np.round(mask, 9))) == {0, 1}
    assert mask.mean() == pytest.approx(0.7, abs=0.02)
    evaluated = layer("drop_connect(50, keep = 0.7)", x, training=False)
    np.testing.assert_allclose(evaluated.values({"net.w": w, "net.b": bias})[0], 0.7 * w + bias)
    (gradient,) = found.gradients("net.w", weights=np.ones((80, 50)))
    np.testing.assert_allclose(gradient, mask, atol=1e-9)


def test_targeted_dropout_drops_the_smallest_weights_of_each_unit() -> None:
    x, w = np.eye(80), rng.normal(size=(80, 50))
    text = "dense_targeted(50, share = 0.31, drop = 0.7, bias = false)"
    found = layer(text, x)
    (masked,) = found.values({"net.w": w})
    smallest = np.argsort(np.argsort(abs(w), 0), 0) < 24  # 0.31 of 80 are 24.8
    np.testing.assert_array_equal(masked[~smallest], w[~smallest])
    kept = masked[smallest] == w[smallest]
    assert (masked[smallest][~kept] == 0).all()
    assert kept.mean() == pytest.approx(0.3, abs=0.05)
    (gradient,) = found.gradients("net.w", weights=np.ones((80, 50)), states={"net.w": w})
    np.testing.assert_array_equal(gradient, masked != 0)
    (evaluated,) = layer(text, x, training=False).values({"net.w": w})
    np.testing.assert_array_equal(evaluated, w)


def test_targeted_dropout_drops_the_shortest_units() -> None:
    x, w = np.eye(4), rng.normal(size=(4, 400))
    text = "dense_targeted(400, share = 0.25, drop = 0.6, targeted = targeted_dropout_units)"
    (masked,) = layer(text, x).values({"net.w": w})
    shortest = np.argsort(np.argsort((w**2).sum(0))) < 100
    np.testing.assert_array_equal(masked[:, ~shortest], w[:, ~shortest])
    gone = (masked == 0).all(0)
    assert gone[shortest].mean() == pytest.approx(0.6, abs=0.13)
    np.testing.assert_array_equal(masked[:, ~gone], w[:, ~gone])


def test_noise_on_weights() -> None:
    x, w = np.eye(100), np.zeros((100, 100))
    text = "noisy_dense(100, deviation = 0.2, bias = false)"
    noise = layer(text, x).values({"net.w": w})[0]
    assert noise.std() == pytest.approx(0.2, rel=0.03)
    assert (layer(text, x, training=False).values({"net.w": w})[0] == 0).all()


def test_noise_on_anything() -> None:
    x = rng.normal(size=(100, 100))
    noise = value("fn f(x) = gaussian_noise(x, 0.3)", x, symbolic=True) - x
    assert noise.std() == pytest.approx(0.3, rel=0.03)
    assert abs(noise.mean()) < 0.01
    np.testing.assert_array_equal(value("fn f(x) = gaussian_noise(x)", x, training=False), x)


def test_input_noise_is_a_penalty_on_a_linear_model() -> None:
    """E (w (x + e) - y)^2 = (w x - y)^2 + deviation^2 |w|^2."""
    x, w = np.zeros((40_000, 3)), np.array([1.0, -2.0, 0.5])
    noisy = value("fn f(x, w) = mean((gaussian_noise(x, 0.3) @ w - 1)^2)", x, w)
    assert noisy == pytest.approx(1 + 0.09 * (w**2).sum(), rel=0.02)


def test_monte_carlo_averages_passes() -> None:
    text = """
layer noisy(x) {{ x |> dense(2) |> dropout_always(0.5) }}
model net = noisy()
fn f(x) = {}
"""
    x = rng.normal(size=(5, 3))
    states = {"net.dense.b": np.array([0.5, -1.0])}
    passes = elaborate(text.format("monte_carlo_samples(net, x, 400)"), x, training=False)
    samples = passes.values(states)[0]
    assert samples.shape == (400, 5, 2)
    plain = x @ passes.initial["net.dense.w"] + states["net.dense.b"]
    kept = samples != 0
    np.testing.assert_allclose(samples[kept], np.broadcast_to(2 * plain, samples.shape)[kept])
    assert kept.mean() == pytest.approx(0.5, abs=0.03)
    average = elaborate(text.format("monte_carlo(net, x, 400)"), x, training=False, symbolic=True)
    np.testing.assert_allclose(average.values(states)[0], samples.mean(0))
    curve = text.format("monte_carlo(chances, x, 3)") + "fn chances(x) = softmax(net(x))\n"
    np.testing.assert_allclose(value(curve, x, training=False).sum(-1), 1)


# -- augmentation ----------------------------------------------------------------------------------


def test_symmetric_beta_has_its_moments() -> None:
    """Variance 1 / (4 (2 alpha + 1)), fourth moment by the gamma function."""
    for alpha in (0.2, 1, 4):
        found = elaborate(f"fn f(x) = symmetric_beta({alpha}) + 0 * x", np.zeros(()))
        a = np.array([found.values({"step": np.int64(i)})[0] for i in range(1500)])
        assert ((a >= 0) & (a <= 1)).all()
        assert a.mean() == pytest.approx(0.5, abs=0.04)
        assert a.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.12)
        fourth = 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))
        assert ((a - 0.5) ** 4).mean() == pytest.approx(fourth, rel=0.2)
    assert "above 0" in refuses("fn f(x) = symmetric_beta(0)", np.zeros(()))


def test_mixup_mixes_examples_with_their_targets() -> None:
    x = rng.normal(size=(6, 4))
    y = np.array([0, 1, 2, 0, 1, 2])
    text = "fn f(x, y) = mixup(x, y, 1)"
    found = elaborate(text, x, y, classes={1: 3}, symbolic=True)
    seen = set()
    for step in range(20):
        _, target = found.values({"step": np.int64(step)})
        np.testing.assert_allclose(target.sum(1), 1)
        # The share of its own class, where the partner has another, is one number for the batch.
        own = target[np.arange(6), y]
        a = own[own < 1]
        if a.size:
            np.testing.assert_allclose(a, a[0])
            seen.add(round(float(a[0]), 6))
    assert len(seen) > 10
    evaluated, labels = elaborate(text, x, y, classes={1: 3}, training=False).values()
    np.testing.assert_array_equal(evaluated, x)
    np.testing.assert_array_equal(labels, np.eye(3)[y])


def test_mixup_of_numbers_is_one_convex_combination() -> None:
    """With the identity as data, each row shows its two partners and their shares."""
    x = np.eye(8)
    mixed, target = elaborate("fn f(x, y) = mixup(x, y, 1)", x, 10 * x).values()
    np.testing.assert_allclose(target, 10 * mixed)
    np.testing.assert_allclose(mixed.sum(1), 1)
    np.testing.assert_allclose(mixed.sum(0), 1)
    a = np.diag(mixed)[np.diag(mixed) < 1]
    np.testing.assert_allclose(a, a[0])


def test_cutmix_pastes_a_rectangle() -> None:
    x = np.arange(6.0)[:, None, None, None] * np.ones((6, 2, 8, 10))
    y = np.array([0, 1, 2, 3, 4, 5])
    text = "fn f(x, y) = cutmix(x, y)"
    found = elaborate(text, x, y, classes={1: 6}, symbolic=True)
    sizes = []
    for step in range(40):
        mixed, target = found.values({"step": np.int64(step)})
        foreign = mixed != x
        np.testing.assert_array_equal(foreign[:, :1], foreign[:, 1:])
        cut = foreign.any((0, 1))
        rows, columns = cut.any(1), cut.any(0)
        np.testing.assert_array_equal(cut, np.outer(rows, columns))
        for side in (rows, columns):
            assert np.abs(np.diff(side)).sum() <= 2  # one interval
        partner = mixed[:, 0][:, cut].astype(int) if cut.any() else None
        shares = np.zeros((6, 6))
        shares[np.arange(6), y] += 1 - cut.mean()
        if partner is not None:
            shares[np.arange(6), partner[:, 0]] += cut.mean()
        np.testing.assert_allclose(target, shares, atol=1e-12)
        sizes.append(cut.mean())
    assert 0.1 < np.mean(sizes) < 0.6
    evaluated, labels = elaborate(text, x, y, classes={1: 6}, training=False).values()
    np.testing.assert_array_equal(evaluated, x)
    np.testing.assert_array_equal(labels, np.eye(6))


MOVED = "fn f(x, turn, scale, down, right) = affine(x, turn, scale, down, right)"


def test_affine_moves_turns_and_scales() -> None:
    x = rng.normal(size=(4, 2, 5, 5))
    still, one = np.zeros(4), np.ones(4)
    np.testing.assert_allclose(value(MOVED, x, still, one, still, still), x)
    moved = value(MOVED, x, still, one, still + 2, still - 1, symbolic=True)
    np.testing.assert_allclose(moved[:, :, 2:, :-1], x[:, :, :-2, 1:])
    assert (moved[:, :, :2] == 0).all()
    assert (moved[..., -1] == 0).all()
    turned = value(MOVED, x, np.array([0.0, 90, 180, 270]), one, still, still)
    expected = [np.rot90(image, k, (1, 2)) for k, image in enumerate(x)]
    np.testing.assert_allclose(turned, expected, atol=1e-13)
    flat = np.ones((1, 1, 9, 7))
    half = value(MOVED, flat, np.zeros(1), np.full(1, 0.5), np.zeros(1), np.zeros(1))
    assert half[0, 0, 3:6, 3:4].tolist() == [[1.0]] * 3
    assert (half[0, 0, [0, 8]] == 0).all()
    ramp = np.arange(6.0) * np.ones((1, 1, 3, 6))
    between = value(MOVED, ramp, np.zeros(1), np.ones(1), np.zeros(1), np.array([0.25]))
    np.testing.assert_allclose(between[0, 0, 1, 1:], np.arange(1, 6) - 0.25)


def test_random_changes_of_images() -> None:
    """Each example its own change, within the stated bounds, and none in evaluation."""
    x = rng.normal(size=(300, 3, 6, 6))
    flipped = value("fn f(x) = random_flip(x, 0.3)", x, symbolic=True)
    mirror = (flipped == x[..., ::-1]).all((1, 2, 3))
    assert mirror.mean() == pytest.approx(0.3, abs=0.1)
    np.testing.assert_array_equal(flipped[~mirror], x[~mirror])
    shifted = value("fn f(x) = random_shift(x, 1)", x, symbolic=True)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    crops = np.stack([padded[:, :, i : i + 6, j : j + 6] for i in range(3) for j in range(3)])
    hit = np.isclose(crops, shifted).all((2, 3, 4))
    np.testing.assert_array_equal(hit.sum(0), 1)
    np.testing.assert_allclose(hit.mean(1), 1 / 9, atol=0.06)
    brighter = value("fn f(x) = random_brightness(x, 0.2)", x, symbolic=True) - x
    np.testing.assert_allclose(brighter, np.broadcast_to(brighter[:, :1, :1, :1], x.shape))
    assert 0.19 < np.abs(brighter).max() <= 0.2
    tinted = value("fn f(x) = random_tint(x, 0.2)", x, symbolic=True) - x
    np.testing.assert_allclose(tinted, np.broadcast_to(tinted[:, :, :1, :1], x.shape))
    assert 0.19 < np.abs(tinted).max() <= 0.2
    sharper = value("fn f(x) = random_contrast(x, 0.2)", x, symbolic=True)
    np.testing.assert_allclose(sharper.mean((1, 2, 3)), x.mean((1, 2, 3)))
    factor = sharper.std((1, 2, 3)) / x.std((1, 2, 3))
    assert 0.8 <= factor.min() < 0.81
    assert 1.19 < factor.max() <= 1.2
    changed = value("fn f(x) = random_affine(x)", x, symbolic=True)
    assert 0.3 < np.corrcoef(changed.ravel(), x.ravel())[0, 1] < 0.99
    for name in ("flip", "shift", "brightness", "tint", "contrast", "affine"):
        text = f"fn f(x) = random_{name}(x)"
        np.testing.assert_array_equal(value(text, x, training=False), x)


def test_votes_over_changes() -> None:
    text = """
model net = dense(3)
fn chances(x) = softmax(net(x))
fn f(x) = vote(chances, x, [identity, mirrored])
"""
    x = rng.normal(size=(5, 4))
    one, both_ways = (
        elaborate(text.replace("[identity, mirrored]", kinds), x, training=False).values()[0]
        for kinds in ("[identity]", "[identity, mirrored]")
    )
    other = value(text.replace("[identity, mirrored]", "[mirrored]"), x, training=False)
    np.testing.assert_allclose(both_ways, (one + other) / 2)


def test_labels_smoothed_and_noisy() -> None:
    y = rng.integers(0, 4, 5000)
    smooth = value("fn f(y) = smooth_labels(y, 0.2)", y, classes={0: 4}, symbolic=True)
    np.testing.assert_allclose(smooth, 0.8 * np.eye(4)[y] + 0.05)
    found = elaborate("fn f(y) = noisy_labels(y, 0.2)", y, classes={0: 4}, symbolic=True)
    noisy = found.values()[0]
    assert set(np.unique(noisy)) == {0, 1}
    np.testing.assert_array_equal(noisy.sum(1), 1)
    assert (noisy.argmax(1) == y).mean() == pytest.approx(0.85, abs=0.02)
    wrong = noisy[noisy.argmax(1) != y].mean(0)
    np.testing.assert_allclose(wrong, 0.25, atol=0.05)
    plain = value("fn f(y) = noisy_labels(y, 0.2)", y, classes={0: 4}, training=False)
    np.testing.assert_array_equal(plain, np.eye(4)[y])
    flat = value("fn f(p) = smooth_labels(p, 0.5)", np.array([[1.0, 0]]))
    np.testing.assert_allclose(flat, [[0.75, 0.25]])


def test_probabilities_that_make_no_sense() -> None:
    x = np.zeros((4, 3))
    for call in (
        "dropout_keep(0)",
        "dropout_vanilla(1.5)",
        "dropout_channels(1)",
        "dropout_gaussian(1)",
        "dropout_always(-0.1)",
        "drop_path(1)",
        "drop_connect(2, keep = 0)",
        "dense_targeted(2, drop = 1)",
    ):
        assert "kept with a probability" in refuses(f"model net = {call}\nfn f(x) = net(x)", x)
    assert "keeps a unit" in refuses("model net = dropout_count(3)\nfn f(x) = net(x)", x)


def test_draws_depend_on_the_seed() -> None:
    found = layer("dropout_count(10)", WIDE)
    other = found.values({"seed": SEED + np.uint32(1)})[0]
    assert (other != found.values()[0]).any()
