"""Small specs whose steps are verified in a moment: between them they use most of what there is."""

from __future__ import annotations

from collections.abc import Mapping

DATA = """
data digits {
  source = embedded("digits")
  x: f32[64]      = features / 16
  image: f32[1, 8, 8] = image / 16
  y: class[10]    = target
  split = { train: 64, valid: 16 }
}
"""

# A perceptron with all that a step can hold beside its loss.
DENSE = (
    DATA
    + """
layer mlp(x: f32[B, D]) {
  let h = x |> dense(6) |> tanh |> dropout(0.2)
  h = h + dense(h, 6) |> relu
  dense(h, 10) / (1 + mean(abs(h)))
}
model net = mlp()
model line = dense(2)
train {
  data    = digits.batch(8, shuffle = true)
  minimize cross_entropy(net(x), y) + 1e-3 * l2(net.weights) + 0.1 * mean(line(x))
    with adamw(lr = cosine(5e-2, warmup = 2 steps))
  metrics = { accuracy: accuracy(net(x), y) }
  clip    = global_norm(0.5)
  average = ema(0.9)
  steps   = 16
}
"""
)

# Windows of every kind: strides, padding that is not the same on both sides, pooling.
CONV = (
    DATA
    + """
layer stack(x: f32[B, C, H, W]) {
  let h = x |> conv(3, kernel = 3, stride = 2, padding = "same") |> batch_norm |> relu
  h = h |> conv(4, kernel = 2, padding = "same") |> max_pool(2, stride = 1)
  h = h |> average_pool(2, stride = 1)
  h |> flatten |> dense(10)
}
model net = stack()
train {
  data    = digits.batch(5)
  minimize cross_entropy(net(image), y) with momentum(0.05)
  steps   = 16
}
"""
)

# A loop, a table that is looked up in, attention, and what moves axes.
SEQUENCE = (
    DATA
    + """
layer reader(x: f32[B, D]) {
  let tokens = int(min(floor(x[..., 0:12] * 5), 4))
  let h = embedding(tokens, 5, 4)
  h = h + rnn(h, 4)
  h = h + self_attention(h, heads = 2)
  let cube = transpose(reshape(dense(x, 27), [B, 3, 3, 3]), [0, 2, 3, 1])
  let turned = transpose(cube, [0, 2, 1, 3]) * 2
  dense(mean(h, over = 1), 10) + dense(flatten(turned), 10)
}
model net = reader()
train {
  data    = digits.batch(5)
  minimize cross_entropy(net(x), y) with adam(0.01)
  steps   = 16
}
"""
)

SPECS: Mapping[str, str] = {"dense": DENSE, "conv": CONV, "sequence": SEQUENCE}
