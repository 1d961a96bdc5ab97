"""`scan` in the language: what a cell sees and gives, axes, draws, parameters, and mistakes."""

from __future__ import annotations

import numpy as np
import pytest

from language.elaborated import elaborate, refuses, value
from weft.compiler.graph import topological
from weft.compiler.types import F32

rng = np.random.default_rng(0)
X = rng.normal(size=(3, 5, 2))

SUM = "fn add_up(x, total) = total + x\n"


def test_the_last_carried_value_and_all_of_them() -> None:
    text = SUM + "fn f(x: float[B, T, I]) = x |> scan(add_up, zeros([B, I]), over = T)"
    last, every = elaborate(text, X).values()
    np.testing.assert_allclose(last, X.sum(1))
    np.testing.assert_allclose(every, X.cumsum(1))


def test_over_counts_axes_too_and_is_the_first_by_default() -> None:
    for over, axis in (("", 0), (", over = 1", 1), (", over = -1", 2)):
        shape = [n for i, n in enumerate(X.shape) if i != axis]
        text = SUM + f"fn f(x) = x |> scan(add_up, zeros({shape}){over})"
        np.testing.assert_allclose(elaborate(text, X).values()[1], X.cumsum(axis))


def test_backwards_positions_stay() -> None:
    text = (
        SUM + "fn f(x: float[B, T, I]) = x |> scan(add_up, zeros([B, I]), over = T, reverse = true)"
    )
    last, every = elaborate(text, X).values()
    np.testing.assert_allclose(last, X.sum(1))
    np.testing.assert_allclose(every, X[:, ::-1].cumsum(1)[:, ::-1])


def test_a_cell_may_stack_something_else_and_the_axis_has_its_name_again() -> None:
    text = """
fn cell(x: float[B, I], h: float[B, I]) {
  let n = h + x
  n, sum(n, over = I), max(n)
}
fn f(x: float[B, T, I]) {
  let last, all = x |> scan(cell, zeros([B, I]), over = T)
  mean(all[0], over = T), all[1], last
}
"""
    rows, largest, last = elaborate(text, X).values()
    sums = X.cumsum(1)
    np.testing.assert_allclose(rows, sums.sum(2).mean(1))
    np.testing.assert_allclose(largest, sums.max((0, 2)))
    np.testing.assert_allclose(last, sums[:, -1])


def test_several_stacks_and_carried_values_are_lists() -> None:
    text = """
fn cell(x: float[B, I], t, h, count) = where(broadcast(t < 3, [B, I]), h + x, h), count + 1
fn f(x: float[B, T, I]) {
  let last, all = scan([x, arange(T)], cell, [zeros([B, I]), 0], over = T)
  last[0], last[1], all[1]
}
"""
    h, count, counts = elaborate(text, X).values()
    np.testing.assert_allclose(h, X[:, :3].sum(1))
    assert count == 5
    np.testing.assert_array_equal(counts, [1, 2, 3, 4, 5])


def test_without_x_a_loop_has_a_length() -> None:
    text = "fn double(x) = 2 * x\nfn f(x) = scan([], double, x, length = 4)"
    last, every = elaborate(text, np.array([1.0, 3.0])).values()
    np.testing.assert_array_equal(last, [16, 48])
    np.testing.assert_array_equal(every[:, 0], [2, 4, 8, 16])


CELL = """
layer cell(x: float[B, I], h: float[B, H], scale = 1) {
  param w: float[I, H] ~ glorot_uniform
  param u: float[H, H] ~ glorot_uniform
  tanh(x @ w + h @ u) * scale
}
layer whole(x: float[B, T, I], units: int, unroll = false) {
  let last, all = x |> scan(cell, zeros([B, units]), over = T, scale = 0.5, unroll = unroll)
  all
}
fn f(x) = net(x)
"""


@pytest.mark.parametrize("symbolic", [False, True])
def test_parameters_of_a_cell_are_made_once(symbolic: bool) -> None:
    found = elaborate(CELL + "model net = whole(units = 4)", X, symbolic=symbolic)
    assert list(found.initial) == ["seed", "step", "net.cell.w", "net.cell.u"]
    flat = elaborate(CELL + "model net = whole(units = 4, unroll = true)", X, symbolic=symbolic)
    assert flat.initial.keys() == found.initial.keys()
    np.testing.assert_allclose(found.values()[0], flat.values()[0], rtol=1e-12)
    names = ("x", "net.cell.w", "net.cell.u")
    for mine, other in zip(found.gradients(*names), flat.gradients(*names), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-10, atol=1e-13)
    ops = {n.op.name for t in flat.results for n in topological([t.node])}
    assert "scan" not in ops


def test_a_model_can_be_the_cell() -> None:
    text = (
        CELL.replace("scan(cell,", "scan(inner,")
        + "model inner = cell()\nmodel net = whole(units = 4)"
    )
    found = elaborate(text, X)
    assert [n for n in found.initial if n.startswith("inner")] == ["inner.w", "inner.u"]


def test_gradients_of_gradients_pass_through() -> None:
    text = """
fn cell(x: float[B, I], h: float[B, I]) = sin(h + x)
fn total(x: float[B, T, I]) {
  let last, all = x |> scan(cell, zeros([B, I]), over = T)
  sum(all^2)
}
fn f(x) = norm(grad(total(x), x))
"""
    d = rng.normal(size=X.shape)
    (gradient,) = elaborate(text, X).gradients("x", weights=np.ones(()))
    ends = [value(text, X + s * 1e-5 * d) for s in (1, -1)]
    np.testing.assert_allclose((gradient * d).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-6)


DRAWS = """
fn cell(x: float[B], h: float[B]) { let u = uniform([B])\n  h + u, u }
fn f(x: float[B, T]) {
  let last, all = x |> scan(cell, zeros([B]), over = T, unroll = {unroll})
  all
}
"""


def test_draws_differ_from_turn_to_turn_and_not_by_how_the_loop_is_run() -> None:
    x = np.zeros((4, 6))
    drawn = value(DRAWS.replace("{unroll}", "false"), x)
    assert len(np.unique(drawn)) == 24
    np.testing.assert_array_equal(drawn, value(DRAWS.replace("{unroll}", "true"), x))
    shorter = value(DRAWS.replace("{unroll}", "false"), x[:, :3])
    np.testing.assert_array_equal(drawn[:, :3], shorter)


def test_dropout_in_a_cell() -> None:
    text = """
layer cell(x: float[B, I], h: float[B, I]) = dropout(h + x, 0.5)
layer whole(x: float[B, T, I]) {
  let last, all = x |> scan(cell, zeros([B, I]), over = T)
  last
}
model net = whole()
fn f(x) = net(x)
"""
    x = np.ones((20, 4, 10))
    found = value(text, x)
    assert found.min() == 0
    assert len(np.unique(found)) > 4
    np.testing.assert_allclose(value(text, x, training=False), np.full((20, 10), 4.0))


def test_single_precision() -> None:
    text = SUM + "fn f(x: float[B, T]) = x |> scan(add_up, zeros([B]), over = T)"
    assert value_type(text, X[0].astype(np.float32)) == F32


def value_type(text: str, x: np.ndarray) -> object:
    return elaborate(text, x, float_type=F32).results[0].type.dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("scan(x, add_up, zeros([3]), over = T)", "`+`"),
        ("scan(x, 3, zeros([B, I]), over = T)", "the cell is a function"),
        ("scan(x, widen, zeros([B, I]), over = T)", "changes its type in a turn"),
        ("scan(x, nothing, [zeros([B, I]), 0], over = T)", "the cell gives too little"),
        ("scan([x, zeros([4])], pair, zeros([B, I]), over = 0)", "axes of one length"),
        ("scan([], add_up, zeros([B, I]))", "needs its `length`"),
        ("scan([], add_up, zeros([B, I]), length = 1.5)", "`length` is a number of turns"),
        ("scan(x, add_up, zeros([B, I]), over = T, reverse = 1)", "`reverse` is true or false"),
        ("scan(x, add_up, zeros([B, I]), over = T, scale = 1)", "has no argument `scale`"),
        ("scan(x, add_up)", "`scan` needs `start`"),
    ],
)
def test_mistakes(call: str, message: str) -> None:
    text = (
        SUM
        + f"""
fn widen(x, h) = concat([h, x])
fn nothing(x, h, n) = h
fn pair(x, y, h) = h
fn f(x: float[B, T, I]) = {call}
"""
    )
    assert message in refuses(text, X)


def test_an_unknown_number_of_turns_cannot_be_unrolled() -> None:
    text = SUM + "fn f(x) = x |> scan(add_up, zeros([2]), unroll = true)"
    assert "only a known number of turns" in refuses(text, X[0], symbolic=True)


def test_states_are_not_updated_in_a_turn() -> None:
    text = """
layer cell(x: float[B, I], h: float[B, I]) {
  state count: float[] ~ zeros
  count <- count + 1
  h + x
}
layer whole(x: float[B, T, I]) {
  let last, all = x |> scan(cell, zeros([B, I]), over = T)
  last
}
model net = whole()
fn f(x) = net(x)
"""
    message = refuses(text, X)
    assert "the cell updates its state `net.cell.count`" in message
    assert "carry the value from turn to turn" in message
    assert "batch_norm" not in message


def test_states_can_be_read_in_a_turn() -> None:
    text = """
layer cell(x: float[B, I], h: float[B, I]) {
  state scale: float[] ~ 2
  h + scale * x
}
layer whole(x: float[B, T, I]) {
  let last, all = x |> scan(cell, zeros([B, I]), over = T)
  last
}
model net = whole()
fn f(x) = net(x)
"""
    np.testing.assert_allclose(value(text, X), 2 * X.sum(1))
