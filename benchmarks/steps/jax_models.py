"""The workloads in JAX and optax, as pure functions of nested parameters: `start` gives a step.

Parameters go by Weft's names. Pictures have their channels last, which is XLA's habit: kernels are
[window..., in, out] here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

Parameters = dict[str, Any]
Statistics = list[tuple[Array, Array]]  # of each batch normalisation: mean and variance
Objective = Callable[..., tuple[Array, Statistics]]


def each(p: Parameters, name: str) -> list[Parameters]:
    """The layers of one kind in the order of their numbers: `dense`, `dense_2`, ..."""
    found = [(re.fullmatch(rf"{name}_?(\d*)", key), layer) for key, layer in p.items()]
    numbered = [(int(match[1] or 1), layer) for match, layer in found if match]
    return [layer for _, layer in sorted(numbered, key=lambda pair: pair[0])]


def dense(p: Parameters, x: Array) -> Array:
    return x @ p["w"] + p["b"]


def cross_entropy(logits: Array, labels: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


# -- perceptrons -----------------------------------------------------------------------------------


def perceptron(p: Parameters, x: Array) -> Array:
    *hidden, last = each(p, "dense")
    for layer in hidden:
        x = jax.nn.relu(dense(layer, x))
    return dense(last, x)


def autoencoder(p: Parameters, x: Array, noise: Array) -> tuple[Array, Statistics]:
    hidden, to_mu, to_log_var = each(p["encode"], "dense")
    h = jax.nn.relu(dense(hidden, x))
    mu, log_var = dense(to_mu, h), dense(to_log_var, h)
    logits = perceptron(p["decode"], mu + jnp.exp(0.5 * log_var) * noise)
    rebuilding = optax.sigmoid_binary_cross_entropy(logits, x).sum()
    divergence = 0.5 * jnp.sum(mu**2 + jnp.expm1(log_var) - log_var)
    return (rebuilding + divergence) / len(x), []


# -- pictures --------------------------------------------------------------------------------------

LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(p: Parameters, x: Array, stride: int = 1, padding: Any = "SAME") -> Array:
    y = lax.conv_general_dilated(x, p["w"], (stride, stride), padding, dimension_numbers=LAYOUT)
    return y + p["b"] if "b" in p else y


def conv_transposed(p: Parameters, x: Array) -> Array:
    """Twice as many places, by windows of two."""
    return lax.conv_transpose(x, p["w"], (2, 2), "VALID", dimension_numbers=LAYOUT) + p["b"]


def max_pool(x: Array) -> Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def average_pool(x: Array) -> Array:
    return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4


def flatten(x: Array) -> Array:
    """Channels before places, as Weft's weights have them."""
    return x.transpose(0, 3, 1, 2).reshape(len(x), -1)


def batch_norm(p: Parameters, x: Array, seen: Statistics) -> Array:
    """Normalised by the batch, whose statistics are added to `seen`, with the unbiased variance."""
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axes), x.var(axes)
    count = x.size // x.shape[-1]
    seen.append((mean, var * (count / (count - 1))))
    return (x - mean) * (lax.rsqrt(var + 1e-5) * p["scale"]) + p["shift"]


def lenet(p: Parameters, x: Array, seen: Statistics) -> Array:
    for layer in each(p, "conv"):
        x = average_pool(jnp.tanh(conv(layer, x, padding="VALID")))
    x = flatten(x)
    *hidden, last = each(p, "dense")
    for layer in hidden:
        x = jnp.tanh(dense(layer, x))
    return dense(last, x)


def normed_conv(p: Parameters, x: Array, seen: Statistics, stride: int = 1) -> Array:
    return batch_norm(p["batch_norm"], conv(p["conv"], x, stride, [(1, 1), (1, 1)]), seen)


def resnet(p: Parameters, x: Array, seen: Statistics) -> Array:
    x = jax.nn.relu(normed_conv(p["normed_conv"], x, seen))
    for block in each(p, "residual_block"):
        first, second = each(block, "normed_conv")
        added = first["conv"]["w"].shape[-1] - x.shape[-1]
        stride = 2 if added else 1
        y = jax.nn.relu(normed_conv(first, x, seen, stride))
        y = normed_conv(second, y, seen)
        x = jnp.pad(x[:, ::stride, ::stride], [(0, 0), (0, 0), (0, 0), (0, added)])
        x = jax.nn.relu(x + y)
    return dense(p["dense"], x.mean((1, 2)))


def vgg(p: Parameters, x: Array, seen: Statistics) -> Array:
    convolutions, norms = each(p, "conv"), each(p, "batch_norm")
    for i, (layer, norm) in enumerate(zip(convolutions, norms, strict=False)):
        x = jax.nn.relu(batch_norm(norm, conv(layer, x), seen))
        if i in (1, 3, 6):
            x = max_pool(x)
    first, last = each(p, "dense")
    return dense(last, jax.nn.relu(batch_norm(norms[-1], dense(first, flatten(x)), seen)))


def two_convolutions(p: Parameters, x: Array) -> Array:
    for layer in each(p, "conv"):
        x = jax.nn.relu(conv(layer, x))
    return x


def unet(p: Parameters, x: Array, seen: Statistics) -> Array:
    convolutions, ups = each(p, "two_convolutions"), each(p, "conv_transposed")
    maps = [two_convolutions(convolutions[0], x)]
    for layer in convolutions[1 : len(ups) + 1]:
        maps.append(two_convolutions(layer, max_pool(maps[-1])))
    x = maps.pop()
    for up, layer in zip(ups, convolutions[len(ups) + 1 :], strict=True):
        x = jnp.concatenate([maps.pop(), conv_transposed(up, x)], -1)
        x = two_convolutions(layer, x)
    return conv(p["pointwise_conv"]["conv"], x)


# -- sequences -------------------------------------------------------------------------------------


def lstm(p: Parameters, ids: Array) -> Array:
    x, cell = p["embedding"]["table"][ids], p["lstm"]
    projected = (x @ cell["w"] + cell["b"]).swapaxes(0, 1)  # of all steps at once
    zero = jnp.zeros((len(ids), cell["u"].shape[0]))

    def turn(carried: tuple[Array, Array], z: Array) -> tuple[tuple[Array, Array], Array]:
        h, c = carried
        i, f, g, o = jnp.split(z + h @ cell["u"], 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return dense(p["dense"], lax.scan(turn, (zero, zero), projected)[1].swapaxes(0, 1))


def layer_norm(p: Parameters, x: Array, eps: float) -> Array:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + eps) * p["scale"] + p["shift"]


def attention(p: Parameters, x: Array, heads: int, causal: bool) -> Array:
    q, k, v = (a.reshape(*x.shape[:2], heads, -1) for a in jnp.split(dense(p["qkv"], x), 3, -1))
    y = jax.nn.dot_product_attention(q, k, v, is_causal=causal)
    return dense(p["out"], y.reshape(x.shape))


def block(p: Parameters, x: Array, heads: int, causal: bool, eps: float) -> Array:
    norm1, norm2 = each(p, "layer_norm")
    first, second = each(p["feed_forward"], "dense")
    inner = p["self_attention"]["multi_head_attention"]
    x = x + attention(inner, layer_norm(norm1, x, eps), heads, causal)
    h = jax.nn.gelu(dense(first, layer_norm(norm2, x, eps)), approximate=False)
    return x + dense(second, h)


def transformer(p: Parameters, ids: Array, heads: int = 4) -> Array:
    table = p["embedding_and_table"]["table"]
    x = table[ids] + p["learned_positions"]["table"]
    for layer in each(p, "transformer_encoder_prenorm"):
        x = block(layer, x, heads, causal=True, eps=1e-5)
    return layer_norm(p["layer_norm"], x, 1e-5) @ table.T


def vit(p: Parameters, x: Array, seen: Statistics, heads: int = 3) -> Array:
    to_patches = p["patch_embedding"]["conv"]
    x = conv(to_patches, x, stride=len(to_patches["w"]), padding="VALID")
    x = x.reshape(len(x), -1, x.shape[-1])
    token = jnp.broadcast_to(p["class_token"]["token"], (len(x), 1, x.shape[-1]))
    x = jnp.concatenate([token, x], 1) + p["learned_positions"]["table"]
    for layer in each(p, "transformer_encoder_prenorm"):
        x = block(layer, x, heads, causal=False, eps=1e-6)
    return dense(p["dense"], layer_norm(p["layer_norm"], x, 1e-6)[:, 0])


# -- training --------------------------------------------------------------------------------------


def of_rows(net: Callable[..., Array]) -> Objective:
    """Cross-entropy of a net without batch normalisation."""
    return lambda p, x, y, **unseen: (cross_entropy(net(p["net"], x, **unseen), y), [])


def of_pictures(net: Callable[..., Array]) -> Objective:
    """Cross-entropy of a net for pictures, and what its batch normalisations have seen."""

    def objective(p: Parameters, x: Array, y: Array, **unseen: int) -> tuple[Array, Statistics]:
        seen: Statistics = []
        return cross_entropy(net(p["net"], x, seen, **unseen), y), seen

    return objective


MODELS: Mapping[str, Objective] = {
    "perceptron": of_rows(perceptron),
    "deep_perceptron": of_rows(perceptron),
    "lenet": of_pictures(lenet),
    "resnet": of_pictures(resnet),
    "vgg": of_pictures(vgg),
    "unet": of_pictures(unet),
    "vae": autoencoder,
    "lstm": of_rows(lstm),
    "transformer": of_rows(transformer),
    "vit": of_pictures(vit),
}

UNSEEN = ("heads",)  # settings of nets that their parameters don't show

OPTIMISERS: Mapping[str, Callable[[float], optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": partial(optax.adamw, weight_decay=0.01),
    "momentum": partial(optax.sgd, momentum=0.9),
}


def nested(parameters: Mapping[str, np.ndarray]) -> Parameters:
    """Parameters by their names' parts; kernels with the channels last."""
    tree: Parameters = {}
    for name, value in parameters.items():
        *path, last = name.split(".")
        inner = tree
        for part in path:
            inner = inner.setdefault(part, {})
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
            if path[-1].startswith("conv_transposed"):
                value = value[::-1, ::-1]  # as XLA slides it over the spread picture
        inner[last] = jnp.array(value)
    return tree


def channels_last(array: np.ndarray) -> np.ndarray:
    """A field of a batch; pictures with their channels last."""
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def lacking() -> str | None:
    """What keeps JAX from a GPU; None where it can run on one."""
    if jax.default_backend() == "gpu":
        return None
    return f"JAX {jax.__version__} has no CUDA plugin that finds a GPU"


def start(
    name: str,
    settings: Mapping[str, int],
    optimiser: tuple[str, float],
    parameters: Mapping[str, np.ndarray],
    batches: Sequence[Mapping[str, np.ndarray]],
    device: str = "cpu",
    tf32: bool = False,
) -> Callable[[int], Array]:
    """A function that trains on a batch, by its number, and gives the loss before the update.

    Batches come from the host's memory, from where a GPU fetches them while it computes.
    """
    if device == "cuda":
        jax.config.update("jax_default_matmul_precision", "tensorfloat32" if tf32 else "float32")
    kind, rate = optimiser
    unseen = {key: settings[key] for key in UNSEEN if key in settings}
    objective, optimizer = partial(MODELS[name], **unseen), OPTIMISERS[kind](rate)
    p = nested(parameters)
    placed = jnp.array if device == "cpu" else np.ascontiguousarray
    fields = [{k: placed(channels_last(a)) for k, a in b.items()} for b in batches]
    shapes = jax.eval_shape(objective, p, **fields[0])[1]
    running = [(jnp.zeros(mean.shape), jnp.ones(var.shape)) for mean, var in shapes]
    state = p, optimizer.init(p), running

    @partial(jax.jit, donate_argnums=0)
    def train(state: Any, batch: Mapping[str, Array]) -> tuple[Any, Array]:
        p, slots, running = state
        (loss, seen), grads = jax.value_and_grad(objective, has_aux=True)(p, **batch)
        updates, slots = optimizer.update(grads, slots, p)
        running = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, running, seen)
        return (optax.apply_updates(p, updates), slots, running), loss

    def step(i: int) -> Array:
        nonlocal state
        state, loss = train(state, fields[i])
        return loss

    return step
