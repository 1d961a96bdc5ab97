"""Compares layers and functions of the library with what PyTorch gave for layers.npz."""

from __future__ import annotations

import numpy as np

from language.elaborated import Elaborated, elaborate, fixture, fixture_result

FILE = "layers"


def called(call: str, *arguments: str) -> str:
    """A source whose `f` calls a layer, or a function where the call names its arguments."""
    names = ", ".join(arguments)
    if any(f"({name}" in call for name in arguments):
        return f"fn f({names}) = {call}"
    return f"model net = {call}\nfn f({names}) = net({names})"


def agrees(
    name: str,
    call: str,
    symbolic: bool,
    extra: str = "",
    path: str = "net.",
    file: str = FILE,
) -> None:
    """Value and gradients of `call` are those stored; the first axis may be left open.

    `path` is where the parameters are that the fixture calls `net.NAME`.
    """
    inputs = fixture(name, "in", file)
    arrays = {k: v for k, v in inputs.items() if not k.startswith("net.")}
    states = {k.replace("net.", path): v for k, v in inputs.items() if k not in arrays}
    text = f"{called(call, *arrays)}\n{extra}"
    training = not name.endswith("_eval")
    found = elaborate(text, *arrays.values(), training=training, symbolic=symbolic)
    if symbolic:  # the batch keeps its name, by which labels and masks align with the result
        assert found.results[0].axes[0] is found.interpreter.registry.batch_label
    values = found.values(states)[0]
    assert set(states) <= set(found.initial)
    np.testing.assert_allclose(values, fixture_result(name, file), rtol=1e-10, atol=1e-12)
    expected = fixture(name, "grad", file)
    wanted = [k.replace("net.", path) for k in expected]
    given = found.gradients(*wanted, states=states)
    for argument, gradient in zip(expected, given, strict=True):
        np.testing.assert_allclose(gradient, expected[argument], rtol=1e-10, atol=1e-11)


def layer(text: str, *arrays: object, extra: str = "", **options: object) -> Elaborated:
    """A model of the layer, called on the arrays."""
    names = ", ".join("xyzuv"[: len(arrays)])
    source = f"model net = {text}\nfn f({names}) = net({names})\n{extra}"
    return elaborate(source, *arrays, **options)  # type: ignore[arg-type]


def parameter_count(found: Elaborated) -> int:
    states = found.interpreter.registry.states.values()
    return sum(int(np.prod(s.type.shape)) for s in states if s.role == "parameter")
