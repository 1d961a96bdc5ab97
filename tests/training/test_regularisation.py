"""Penalties and constraints in a training step, and the laws that tie penalties to decay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import weft
from steps import Steps
from training_specs import points
from weft.compiler.errors import CompileError
from weft.compiler.evaluate import evaluate
from weft.runtime.backends import backend_named
from weft.runtime.loading import load_spec, read
from weft.runtime.session import Session

Array = np.ndarray
DATA = """
data points {
  source = embedded("digits")
  x: f32[3] = x
  y: f32[4] = y
}
layer two(x: f32[B, I]) { x |> dense(5, init = normal) |> tanh |> dense(4) }
model net = two()
"""


def columns() -> dict[str, Array]:
    rng = np.random.default_rng(7)
    return {"x": rng.standard_normal((8, 3)), "y": rng.standard_normal((8, 4))}


def spec(body: str, declarations: str = "") -> str:
    head = "train {\n  data = points.batch(8)\n  precision = f64\n  steps = 5\n"
    return f"{DATA}{declarations}{head}{body}\n}}\n"


def trained(body: str, steps: int = 5, declarations: str = "") -> dict[str, Array]:
    made = Steps.of(spec(body, declarations), columns())
    for _ in range(steps):
        made.step(**columns())
    return made.state


# An optimiser and the same with its weights shrunk apart from the gradient: theta - lr decay theta.
DECAYED = """
optimizer sgd_decayed(lr: float, decay: float) {
  theta <- theta - lr * (grad + decay * theta)
}
optimizer momentum_decayed(lr: float, decay: float) {
  state v ~ zeros
  v <- 0.9 * v + grad + decay * theta
  theta <- theta - lr * v
}
"""


@pytest.mark.parametrize("rule", ["sgd", "momentum"])
def test_l2_is_decay_for_gradient_descent(rule: str) -> None:
    """a l2(w) pulls by 2 a w, a half_l2(w) by a w: the factor of two that texts lose."""
    base = "minimize mse(net(x), y)"
    decayed = trained(f"  {base} with {rule}_decayed(0.1, 0.02)", declarations=DECAYED)
    for penalty in ("0.02 * half_l2(net.parameters)", "0.01 * l2(net.parameters)"):
        penalised = trained(f"  {base} + {penalty} with {rule}(0.1)")
        for name in ("net.dense.w", "net.dense.b", "net.dense_2.w"):
            np.testing.assert_allclose(penalised[name], decayed[name], rtol=1e-12)
    plain = trained(f"  {base} with {rule}(0.1)")
    assert not np.allclose(plain["net.dense.w"], decayed["net.dense.w"], rtol=1e-4)


def test_l2_is_not_decay_for_adam() -> None:
    penalised = trained("  minimize mse(net(x), y) + 0.1 * half_l2(net.parameters) with adam(0.01)")
    decayed = trained("  minimize mse(net(x), y) with adamw(0.01, decay = 0.1)")
    assert not np.allclose(penalised["net.dense.w"], decayed["net.dense.w"], rtol=1e-3)


def test_a_penalty_in_training_alone() -> None:
    whole = "minimize mse(net(x), y) + l2(net.weights) with sgd(0.1)"
    apart = "minimize mse(net(x), y) + only_training(l2(net.weights)) with sgd(0.1)"
    one, other = trained(f"  {whole}"), trained(f"  {apart}")
    np.testing.assert_array_equal(one["net.dense.w"], other["net.dense.w"])
    losses = []
    for body in (apart, "minimize mse(net(x), y) with sgd(0.1)"):
        graph = Steps.of(spec(f"  {body}"), columns()).program.eval_step
        known = {**one, **columns()}
        inputs = {n.name: known[n.name] for n in graph.inputs}
        losses.append(evaluate(graph, inputs, {"batch": 8})["loss"])
    assert losses[0] == losses[1] > 0


CONSTRAINTS = {
    "max_norm(0.5)": lambda w: (np.linalg.norm(w, axis=0) <= 0.5 + 1e-12).all(),
    "unit_norm": lambda w: np.allclose(np.linalg.norm(w, axis=0), 1),
    "l2_ball(0.7)": lambda w: np.linalg.norm(w) <= 0.7 + 1e-12,
    "l1_ball(1.5)": lambda w: np.abs(w).sum() <= 1.5 + 1e-12,
    "non_negative": lambda w: (w >= 0).all(),
    "by_value(0.2)": lambda w: (np.abs(w) <= 0.2).all(),
}


@pytest.mark.parametrize("rule", CONSTRAINTS)
def test_constraints_hold_after_every_update(rule: str) -> None:
    made = Steps.of(
        spec(f"  minimize mse(net(x), y) with momentum(0.3)\n  constrain = {rule}"), columns()
    )
    for _ in range(3):
        made.step(**columns())
        for name in ("net.dense.w", "net.dense_2.w"):
            assert CONSTRAINTS[rule](made.state[name]), name
    if rule in ("max_norm(0.5)", "unit_norm"):
        assert np.linalg.norm(made.state["net.dense.b"]) > 0


def test_a_constraint_is_a_projection_after_the_update() -> None:
    """Also what a later `minimize` and the average see."""
    body = "  minimize mse(net(x), y) with sgd(0.5)"
    free = trained(body, steps=1)["net.dense.w"]
    made = Steps.of(spec(f"{body}\n  constrain = max_norm(1)\n  average = ema(0)"), columns())
    made.step(**columns())
    lengths = np.linalg.norm(free, axis=0)
    assert (lengths > 1).any()
    expected = free / np.maximum(lengths, 1)
    np.testing.assert_allclose(made.state["net.dense.w"], expected, rtol=1e-12)
    np.testing.assert_allclose(made.state["average/net.dense.w"], expected, rtol=1e-12)


def test_the_nearest_point_of_the_l1_ball() -> None:
    """No other point of the ball is nearer, by its conditions: one fall for all that remain."""
    made = Steps.of(
        spec("  minimize mse(net(x), y) with sgd(0)\n  constrain = l1_ball(2)"), columns()
    )
    before = made.state["net.dense.w"].copy()
    made.step(**columns())
    after = made.state["net.dense.w"]
    assert np.abs(after).sum() == pytest.approx(2)
    fall = (np.abs(before) - np.abs(after))[after != 0]
    np.testing.assert_allclose(fall, fall[0])
    assert (np.abs(before)[after == 0] <= fall[0]).all()
    assert (after == 0).any()


def test_constraints_run_on_the_numpy_backend(tmp_path: Path) -> None:
    path = points(tmp_path)
    path.write_text(
        path.read_text().replace("  epochs   = 4\n", "  epochs = 4\n  constrain = max_norm(1)\n")
    )
    session = Session(load_spec(*read(path)).program, backend_named("numpy"))
    session.initialise(0)
    x, y = np.ones((16, 4), np.float32), np.zeros(16, np.int64)
    for _ in range(3):
        session.run("train_step", {"x": x, "y": y}, 16)
    w = session.tensors()["net.dense.w"]
    assert (np.linalg.norm(w, axis=0) <= 1 + 1e-6).all()


def test_constraints_that_change_the_shape() -> None:
    body = "  minimize mse(net(x), y) with sgd(0.5)\n  constrain = "
    with pytest.raises(CompileError, match="shape of the parameter"):
        Steps.of(spec(f"{body}flat", "fn flat(w) = reshape(w, [-1])\n"), columns())
    with pytest.raises(CompileError, match="`constrain` is a rule"):
        Steps.of(spec(f"{body}3"), columns())


WHOLE = """
data digits {
  source = embedded("digits")
  image: f32[1, 8, 8] = image / 16
  y: class[10]        = target
  split = { train: 80%, valid: 20% }
}
layer branch(x: f32[B, C]) { x |> dropout_count(2) |> dense(32) |> mish |> drop_path(0.2) }
layer net_of(x: f32[B, C, H, W]) {
  x = x |> conv(4, init = orthogonal) |> lsuv |> prelu_per_channel |> dropout_channels(0.1)
  x = x |> flatten |> maxout(32, pieces = 2) |> data_start
  x = x + (x |> branch)
  x |> drop_connect(32, keep = 0.9) |> celu |> noisy_dense(10) |> dropout_always(0.1)
}
model net = net_of()
fn chances(x) = softmax(net(x))
train {
  data      = digits.batch(64, shuffle = true)
  let x, p  = mixup(image |> random_shift(1) |> random_affine |> random_tint, y)
  let z     = net(gaussian_noise(x, 0.05))
  minimize cross_entropy(z, smooth_labels(p)) + only_training(1e-4 * elastic(net.weights))
    with adam(3e-3)
  metrics   = { accuracy: accuracy(net(image), y), top: top_k_accuracy(net(image), y, 3) }
  constrain = max_norm(3)
  predict   = { spread: monte_carlo_samples(chances, image, 4), vote: monte_carlo(chances, image) }
  epochs    = 15
}
"""


def test_all_of_it_together_trains(tmp_path: Path) -> None:
    """Also that evaluation, prediction and a last, smaller batch go through."""
    run = weft.load(WHOLE).train("numpy", out=tmp_path / "run")
    assert run.metrics["valid"]["accuracy"] > 0.8  # of ten classes
    assert run.metrics["valid"]["top"] > 0.95
    outputs = run.predict(np.ones((3, 1, 8, 8), np.float32))
    assert outputs["spread"].shape == (4, 3, 10)
    assert (outputs["spread"].std(0) > 0).any()
    np.testing.assert_allclose(outputs["vote"].sum(-1), 1, rtol=1e-5)
    lengths = np.linalg.norm(run.tensors["net.noisy_dense.w"], axis=0)
    assert lengths.max() <= 3.0001
