"""Models of many of the library's layers, trained a step by the backend and by the reference."""

from __future__ import annotations

import numpy as np
import pytest

from steps import Steps
from weft.backends.numpy.backend import BACKEND
from weft.runtime.session import Session

DATA = """
data images {
  source = embedded("digits")
  x: f32[2, 6, 6] = x
  y: class[3]     = y
}
layer branch(x: float[B, ...S], channels, step = 1) {
  x |> conv(channels, stride = step) |> group_norm(2) |> relu
}
train {
  data      = images.batch(8)
  precision = f64
  minimize cross_entropy(net(x), y) with momentum(1e-2)
}
model net = whole()
"""

MODELS = {
    "images": """
layer whole(x: float[B, C, H, W]) {
  let h = x |> pad_reflect(1) |> conv(4, padding = "valid") |> batch_renorm |> relu
  h = h |> residual_projected(branch, [8, 2]) |> squeeze_excitation(4) |> noisy_batch_norm
  h = h |> dense_connection(separable_conv, [4]) |> local_response_norm |> instance_norm
  let p = h |> max_pool(size = 2, padding = "same")
  h = max_unpool(p |> conv_spectral_norm(12), h, padding = "same")
  h = h |> conv_transposed(4, stride = 2) |> conv_weight_norm(4) |> batch_norm_cumulative
  h |> true_conv(4) |> locally_connected(2) |> adaptive_average_pool(2) |> flatten |> dense(3)
}
""",
    "positions": """
layer whole(x: float[B, C, H, W]) {
  let h = x |> resize_linear(8) |> upscale_linear_corners |> pixel_unshuffle |> upscale_nearest
  let t = h |> patch_embedding(8, patch = 8) |> class_token |> learned_positions
  t = t |> sinusoidal_positions |> transformer_encoder(4, drop = 0.2, causal = true)
  t = t |> transformer_encoder_prenorm(2) |> rms_norm |> rotary
  t = transformer_decoder(t, t, 2)
  let s = t[:, 0] |> dense_weight_norm(6) |> dense_spectral_norm(4) |> batch_norm_biased
  bilinear(s, s |> dense_transposed(4), 3) + (s |> dense_folded(3))
}
""",
}


@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_the_backend_is_that_of_the_reference(name: str) -> None:
    rng = np.random.default_rng(1)
    columns = {"x": rng.normal(size=(8, 2, 6, 6)), "y": rng.integers(0, 3, 8)}
    reference = Steps.of(DATA + MODELS[name], columns)
    session = Session(reference.program, BACKEND)
    session.initialise(reference.experiment.settings.seed)
    for _ in range(2):
        expected = reference.step(**columns)
        found = session.run("train_step", columns, 8)
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-9)
    for state, value in session.tensors().items():
        np.testing.assert_allclose(value, reference.state[state], rtol=1e-6, atol=1e-9)


def test_a_state_that_is_only_written_is_kept() -> None:
    text = """
layer whole(x: float[B, ...S]) {
  state largest: float[] ~ zeros
  largest <- max(x)
  x |> flatten |> dense(3)
}
"""
    rng = np.random.default_rng(1)
    columns = {"x": rng.normal(size=(8, 2, 6, 6)), "y": rng.integers(0, 3, 8)}
    session = Session(Steps.of(DATA + text, columns).program, BACKEND)
    session.initialise(0)
    assert list(session.run("train_step", columns, 8)) == ["loss"]
    assert session.tensors()["net.largest"] == columns["x"].max()
