"""Recurrent layers: against PyTorch's stored results, formulas written out, and their settings."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from language.elaborated import elaborate
from weft.compiler.errors import CompileError

Array = np.ndarray

rng = np.random.default_rng(0)
X = rng.normal(size=(3, 5, 2))
LENGTHS = np.array([5, 2, 3])
LAYERS = ("rnn", "lstm", "gru", "gru_paper")

CALLS = {
    "rnn": "rnn(units = 4, give = {give})",
    "rnn_relu": "rnn(units = 4, give = {give}, activation = relu)",
    "lstm": "lstm(units = 4, give = {give})",
    "gru": "gru(units = 4, give = {give})",
}


@cache
def stored() -> dict[str, Array]:
    with np.load(Path(__file__).parents[1] / "fixtures" / "recurrent.npz") as found:
        return dict(found)


def fixture(name: str, part: str) -> dict[str, Array]:
    head = f"{name}/{part}/"
    return {k.removeprefix(head): a for k, a in stored().items() if k.startswith(head)}


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("suffix", ["", "_within", "_from"])
@pytest.mark.parametrize("kind", CALLS)
def test_layers_agree_with_pytorch(kind: str, suffix: str, symbolic: bool) -> None:
    name = kind + suffix
    inputs = fixture(name, "in")
    weights = {k: inputs.pop(k) for k in list(inputs) if k.startswith("net.")}
    start = "[h, c]" if kind == "lstm" else "h"
    options = {"": "", "_within": ", lengths = lengths", "_from": f", start = {start}"}[suffix]
    expected = fixture(name, "grad")
    for give, results in (("all", [f"{name}/out"]), ("last", [])):
        text = f"model net = {CALLS[kind]}\nfn f({', '.join(inputs)}) = net(x{options})"
        text = text.replace("{give}", f'"{give}"')
        found = elaborate(text, *inputs.values(), symbolic=symbolic)
        for value, key in zip(found.values(weights), results, strict=False):
            np.testing.assert_allclose(value, stored()[key], rtol=1e-10, atol=1e-13)
        if give == "last":
            last = stored()[f"{name}/last"][0]
            np.testing.assert_allclose(found.values(weights)[0], last, rtol=1e-10, atol=1e-13)
            continue
        gradients = found.gradients(*expected, states=weights)
        for argument, gradient in zip(expected, gradients, strict=True):
            np.testing.assert_allclose(
                gradient, expected[argument], rtol=1e-10, atol=1e-12, err_msg=argument
            )


def of(call: str, *arrays: object, **options: object) -> list[Array]:
    names = ("x", "n")[: len(arrays)]
    rest = ", lengths = n" if len(arrays) > 1 else ""
    text = f"model net = {call}\nfn f({', '.join(names)}) = net(x{rest})"
    return elaborate(text, *arrays, **options).values()  # type: ignore[arg-type]


def test_an_lstm_gives_both_its_states() -> None:
    name = "lstm"
    inputs = fixture(name, "in")
    weights = {k: inputs.pop(k) for k in list(inputs) if k.startswith("net.")}
    text = """
model net = lstm(units = 4, give = "both")
fn f(x) {
  let all, last = net(x)
  all, last[0], last[1]
}
"""
    all_, h, c = elaborate(text, inputs["x"]).values(weights)
    np.testing.assert_allclose(all_[:, -1], h)
    np.testing.assert_allclose(np.stack([h, c]), stored()["lstm/last"], rtol=1e-10)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def test_gru_paper_is_its_formula() -> None:
    found = elaborate("model net = gru_paper(units = 4)\nfn f(x) = net(x)", X)
    w, u = found.initial["net.w"], found.initial["net.u"]
    bias = rng.normal(size=12)
    h, outputs = np.zeros((3, 4)), []
    for t in range(5):
        a = X[:, t] @ w + bias
        r = sigmoid(a[:, :4] + h @ u[:, :4])
        z = sigmoid(a[:, 4:8] + h @ u[:, 4:8])
        n = np.tanh(a[:, 8:] + (r * h) @ u[:, 8:])
        h = (1 - z) * n + z * h
        outputs.append(h)
    np.testing.assert_allclose(found.values({"net.b": bias})[0], np.stack(outputs, 1), rtol=1e-11)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("lengths", [False, True])
def test_unrolled_layers_are_the_same(layer: str, lengths: bool) -> None:
    arrays = (X, LENGTHS) if lengths else (X,)
    for rest in ("", ", reverse = true"):
        looped = of(f"{layer}(units = 4{rest})", *arrays)[0]
        flat = of(f"{layer}(units = 4, unroll = true{rest})", *arrays)[0]
        np.testing.assert_allclose(looped, flat, rtol=1e-12)


@pytest.mark.parametrize("layer", LAYERS)
def test_backwards_is_forwards_over_the_reversed_sequence(layer: str) -> None:
    there = of(f"{layer}(units = 4)", X[:, ::-1])[0][:, ::-1]
    np.testing.assert_allclose(of(f"{layer}(units = 4, reverse = true)", X)[0], there, rtol=1e-12)


@pytest.mark.parametrize("layer", LAYERS)
def test_what_lies_behind_the_end_changes_nothing(layer: str) -> None:
    other = X.copy()
    for i, n in enumerate(LENGTHS):
        other[i, n:] = 99.0
    for rest in ("", ", reverse = true", ', give = "last"'):
        found = [of(f"{layer}(units = 4{rest})", x, LENGTHS)[0] for x in (X, other)]
        np.testing.assert_array_equal(*found)
        alone = of(f"{layer}(units = 4{rest})", X[1:2, :2])[0]
        if "give" in rest:
            np.testing.assert_allclose(found[0][1:2], alone, rtol=1e-12)
        else:
            np.testing.assert_allclose(found[0][1:2, :2], alone, rtol=1e-12)
            assert not found[0][1, 2:].any()


def test_the_forget_gate_starts_open() -> None:
    found = elaborate("model net = lstm(units = 2)\nfn f(x) = net(x)", X)
    np.testing.assert_array_equal(found.initial["net.b"], [0, 0, 1, 1, 0, 0, 0, 0])


def test_bidirectional_and_stacked() -> None:
    text = "model net = bidirectional(units = 4, layer_of = gru)\nfn f(x, n) = net(x, lengths = n)"
    found = elaborate(text, X, LENGTHS)
    assert [n for n in found.initial if n.endswith(".w")] == ["net.gru.w", "net.gru_2.w"]
    (value,) = found.values()
    assert value.shape == (3, 5, 8)
    states = found.initial
    for part, name, rest in ((value[..., :4], "gru", ""), (value[..., 4:], "gru_2", "reverse")):
        call = f"gru(units = 4{', reverse = true' if rest else ''})"
        text = f"model net = {call}\nfn f(x, n) = net(x, lengths = n)"
        mine = {f"net.{k}": states[f"net.{name}.{k}"] for k in ("w", "u", "b", "b_n")}
        np.testing.assert_allclose(part, elaborate(text, X, LENGTHS).values(mine)[0], rtol=1e-12)
    assert of('bidirectional(units = 4, give = "last")', X)[0].shape == (3, 8)
    text = "model net = stacked(units = 4, depth = 3, drop = 0.5)\nfn f(x) = net(x)"
    found = elaborate(text, X, symbolic=True)
    assert found.values()[0].shape == (3, 5, 4)
    names = [n for n in found.initial if n.endswith(".w")]
    assert names == ["net.lstm.w", "net.lstm_2.w", "net.lstm_3.w"]
    calm = elaborate(text, X, training=False).values()[0]
    assert np.abs(calm - found.values()[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ('lstm(4, give = "states")', "says what a recurrent layer gives"),
        ('bidirectional(4, give = "both")', "gives the outputs or the last states"),
    ],
)
def test_layers_with_wrong_settings(call: str, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        of(call, X)
