"""`verify` as a whole: what it compares, what it leaves out and says so, what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import weft
from conformance.backends import INSTALLED
from verify.specs import DATA, DENSE, SPECS
from weft.backends.numpy.backend import BACKEND
from weft.compiler import gradient
from weft.compiler.errors import RunError
from weft.runtime.verification import gradients, losses, updates
from weft.runtime.verification.checks import CHECKS
from weft.runtime.verification.report import Verification
from weft.runtime.verification.subject import Subject


def line(optimizer: str = "sgd(0.1)", settings: str = "", data: str = DATA) -> str:
    """A linear classifier: nothing but the mean of its examples' losses."""
    return f"""{data}
model net = dense(10)
train {{
  data     = digits.batch(8)
  minimize cross_entropy(net(x), y) with {optimizer}
  {settings}
  steps    = 16
}}
"""


NET = """layer small(x: f32[B, D]) = x |> dense(6) |> relu |> dense(10)
model net = small()"""


def subject(text: str) -> Subject:
    return Subject(weft.load(text).loaded, BACKEND)


def passed(found: Verification) -> None:
    assert found.passed, [fault.render() for check in found.checks for fault in check.faults]


def test_the_checks_are_in_the_order_of_the_page() -> None:
    found = weft.load(line()).verify()
    assert [check.name for check in found.checks] == list(CHECKS)
    assert (found.backend, found.precision, found.sizes) == ("numpy", "f32", (8, 5, 1))
    assert found["examples"].count == 650, "10 x 64 weights and 10 biases"
    passed(found)


def test_the_same_again() -> None:
    one, two = (weft.load(line()).verify() for _ in range(2))
    assert one.checks == two.checks


# Every kind of exchange between parameters, slots of other shapes and shared ones.
OPTIMIZERS = (
    "sgd(0.1)", "nesterov_ahead(0.05)", "adam(0.01)", "rprop(0.01)", "lars(0.1)", "lamb(0.01)",
    "adafactor(0.01)", "shampoo(0.05)", "muon(0.02)", "newton(0.1)", "lookahead(adam(0.01))",
    "sam(sgd(0.1))", "per_fan_in(sgd(0.1))",
)  # fmt: skip


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates_of_each_kind(optimizer: str) -> None:
    found = updates.updates(subject(line(optimizer)))
    assert found.passed, [fault.render() for fault in found.faults]
    assert found.count > 650


@pytest.mark.parametrize(
    "settings",
    [
        "clip = by_value(0.01)",
        "constrain = max_norm(0.5)",
        "average = ema(0.9)",
        "average = swa(0, every = 1 step)",
    ],
)
def test_updates_with_each_setting(settings: str) -> None:
    found = updates.updates(subject(line("adam(0.01)", settings)))
    assert found.passed, [fault.render() for fault in found.faults]


def test_a_clause_that_is_no_derivative_is_taken_as_meant() -> None:
    limited = """
fn limited(x) {
  1 * x
  gradient(g) { max(min(g, 0.001), -0.001) }
}
"""
    text = limited + line().replace("net(x)", "limited(net(x))")
    found = weft.load(text).verify()
    passed(found)
    assert any(
        "`limited` changes gradients on purpose" in n for n in found["stated gradients"].notes
    )


def test_a_straight_through_estimate_is_no_fault() -> None:
    text = line().replace("net(x)", "net(x + stop_gradient(round(x) - x))")
    passed(weft.load(text).verify())


def test_data_from_outside_is_drawn() -> None:
    outside = """
data digits {
  x: f32[64]
  y: class[10]
  split = { train: 64 }
}
"""
    text = line(data=outside)
    found = weft.load(text).verify()
    passed(found)
    assert any("drawn of their types" in note for note in found.notes)


def test_a_spec_in_double_precision() -> None:
    found = weft.load(line(settings="precision = f64")).verify()
    passed(found)
    assert found.precision == "f64"


def test_a_model_of_its_papers_size_is_refused() -> None:
    path = Path(__file__).parents[2] / "examples/vgg16.weft"
    with pytest.raises(RunError, match="too large for the reference") as caught:
        weft.load(path).verify()
    assert "small setting" in str(caught.value.diagnostic.hint)


def test_a_group_that_is_wrong_is_halved_until_the_parameter_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The gradient by one parameter alone is wrong: no rule is, so no other check can tell."""
    right = losses.Losses.gradients

    def wrong(self: losses.Losses, objective: object) -> dict[str, np.ndarray]:
        found = right(self, objective)  # type: ignore[arg-type]
        return {n: g * 1.01 if n == "net.dense_2.w" else g for n, g in found.items()}

    monkeypatch.setattr(losses.Losses, "gradients", wrong)
    monkeypatch.setattr(gradients, "SLOPES", 1.0)
    found = gradients.gradients(subject(DENSE))
    assert any("moved together" in note for note in found.notes)
    assert [fault.message for fault in found.faults] == [
        "the gradient of `loss` by `net.dense_2.w` is wrong"
    ]


@pytest.mark.parametrize("share", [1.001, -1.0, 0.0])
def test_a_thousandth_is_seen(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = gradient.RULES["dot_general"]

    def wrong(*arguments: object) -> tuple[object, ...]:
        lhs, rhs = rule(*arguments)
        assert rhs is not None
        return lhs, rhs * share

    monkeypatch.setitem(gradient.RULES, "dot_general", wrong)
    found = weft.load(line()).verify()
    assert {"gradient rules", "gradients"} <= set(found.failed)


@pytest.mark.slow
@pytest.mark.parametrize("backend", [name for name in INSTALLED if name != "numpy"])
@pytest.mark.parametrize("name", SPECS)
def test_every_backend_passes(name: str, backend: str) -> None:
    passed(weft.load(SPECS[name]).verify(backend))


def test_a_gradient_within_the_loss() -> None:
    """Its rules are differentiated again, and the loss is made of them."""
    text = line().replace(
        "cross_entropy(net(x), y)",
        "cross_entropy(net(x), y) + mean(grad(sum(tanh(net(x))^2), x)^2)",
    )
    passed(weft.load(text).verify())


def test_newtons_method_through_kinks() -> None:
    """The Hessian is the slope of the gradient, which jumps where `relu` bends."""
    bent = subject(line("newton(0.1)").replace("model net = dense(10)", NET))
    for found in (gradients.gradients(bent), updates.updates(bent)):
        assert found.passed, [fault.render() for fault in found.faults]
    assert found.count > 440
