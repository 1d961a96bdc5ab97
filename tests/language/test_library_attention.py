"""Attention, positions and transformer blocks: against PyTorch, by their laws, at their edges."""

from __future__ import annotations

import numpy as np
import pytest

from language.elaborated import Array, elaborate, refuses, value
from language.layer_fixtures import agrees, layer, parameter_count
from weft.compiler.graph import Graph, topological
from weft.compiler.passes.decompose import inline_calls

rng = np.random.default_rng(0)

MASK = """
fn allowed() {
  stack([stack([1, 0, 1, 1, 0]), stack([0, 1, 1, 0, 1]), stack([1, 1, 1, 1, 1])]) > 0
}
fn valid() = stack([stack([1, 1, 1, 0, 0]), stack([1, 1, 1, 1, 1])]) > 0
layer masked(q, k, v) { multi_head_attention(q, k, v, 2, mask = allowed()) }
layer padded(q, k, v) { multi_head_attention(q, k, v, 2, valid = valid()) }
"""

CASES = {
    "attention": "attention(q, k, v)",
    "attention_masked": "attention(q, k, v, allowed())",
    "attention_unscaled": "attention_unscaled(q, k, v)",
    "attention_causal": "attention(q, k, v, causal_mask(4))",
    "multi_head": "multi_head_attention(heads = 2)",
    "multi_head_masked": "masked()",
    "multi_head_padded": "padded()",
    "self_attention_causal": "self_attention(heads = 2, causal = true)",
    "transformer_encoder": "transformer_encoder(heads = 2, hidden = 6)",
    "transformer_encoder_prenorm": "transformer_encoder_prenorm(heads = 2, hidden = 6)",
    "transformer_decoder": "transformer_decoder(heads = 2, hidden = 6)",
    "transformer_decoder_prenorm": (
        "transformer_decoder_prenorm(heads = 2, hidden = 6, activation = relu)"
    ),
}
PATHS = {"multi_head_masked", "multi_head_padded"}


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_it_agrees_with_pytorch(name: str, symbolic: bool) -> None:
    path = "net.multi_head_attention." if name in PATHS else "net."
    agrees(name, CASES[name], symbolic and name != "multi_head_padded", MASK, path)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# -- laws of attention -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_self_attention_follows_a_permutation_of_its_positions(seed: int) -> None:
    draws = np.random.default_rng(seed)
    x, order = draws.normal(size=(2, 5, 6)), draws.permutation(5)
    for call in ("self_attention(3)", "transformer_encoder(2)", "transformer_encoder_prenorm(2)"):
        found = layer(call, x).values()[0]
        moved = layer(call, x[:, order]).values()[0]
        np.testing.assert_allclose(moved, found[:, order], rtol=1e-10, atol=1e-12)


def test_attention_takes_keys_as_a_set() -> None:
    q, k, v = (rng.normal(size=(n, 4)) for n in (3, 5, 5))
    order = rng.permutation(5)
    text = "fn f(q, k, v) = attention(q, k, v)"
    np.testing.assert_allclose(value(text, q, k[order], v[order]), value(text, q, k, v))


def test_attention_is_its_formula_with_and_without_the_scale() -> None:
    q, k, v = (rng.normal(size=(n, 4)) for n in (3, 5, 5))
    found = value("fn f(q, k, v) = attention_unscaled(q, k, v)", q, k, v)
    np.testing.assert_allclose(found, softmax(q @ k.T) @ v)
    found = value("fn f(q, k, v) = attention(q, k, v)", q, k, v)
    np.testing.assert_allclose(found, softmax(q @ k.T / 2) @ v)


def test_multi_head_attention_as_lectures_print_it() -> None:
    """head_i = softmax(Q W_q_i (K W_k_i)^T) V W_v_i side by side: no scale, no bias, no W_O."""
    x = rng.normal(size=(1, 4, 6))
    call = (
        "self_attention(heads = 3, bias = false, output = false, "
        "weights = attention_weights_unscaled)"
    )
    found = layer(call, x)
    assert parameter_count(found) == 3 * 36
    w = {c: found.initial[f"net.multi_head_attention.w_{c}"] for c in "qkv"}
    q, k, v = (x[0] @ w[c] for c in "qkv")
    parts = [slice(i, i + 2) for i in (0, 2, 4)]
    heads = [softmax(q[:, p] @ k[:, p].T) @ v[:, p] for p in parts]
    np.testing.assert_allclose(found.values()[0][0], np.concatenate(heads, -1))


def test_no_position_sees_a_later_one() -> None:
    x = rng.normal(size=(1, 5, 4))
    changed = x.copy()
    changed[:, 3:] += 1
    for call in ("self_attention(2, causal = true)", "transformer_encoder(2, causal = true)"):
        one, other = layer(call, x).values()[0], layer(call, changed).values()[0]
        np.testing.assert_allclose(one[:, :3], other[:, :3], rtol=1e-12)
        assert (one[:, 3:] != other[:, 3:]).all()


def test_what_only_fills_up_a_batch_changes_nothing() -> None:
    x = rng.normal(size=(2, 4, 6))
    text = """
layer filled(x: float[B, T, D], lengths: int[B]) {
  let valid = broadcast(arange(T), [B, T]) < broadcast(reshape(lengths, [B, 1]), [B, T])
  x |> transformer_encoder(heads = 2, valid = valid)
}
model net = filled()
fn f(x, lengths) = net(x, lengths)
"""
    lengths = np.array([2, 4])
    one = elaborate(text, x, lengths).values()[0]
    changed = x.copy()
    changed[0, 2:] = 100
    other = elaborate(text, changed, lengths).values()[0]
    np.testing.assert_allclose(one[0, :2], other[0, :2], rtol=1e-12)
    np.testing.assert_allclose(one[1], other[1], rtol=1e-12)
    alone = elaborate(text, x[:1, :2], lengths[:1]).values()[0]
    np.testing.assert_allclose(one[:1, :2], alone, rtol=1e-12)


def test_a_query_that_may_look_at_nothing_weighs_all_alike() -> None:
    q, v = rng.normal(size=(2, 3)), rng.normal(size=(4, 3))
    text = "fn f(q, v) = attention(q, v, v, zeros([2, 4]) > 0)"
    found = elaborate(text, q, v)
    np.testing.assert_allclose(found.values()[0], np.broadcast_to(v.mean(0), (2, 3)))
    assert all(np.isfinite(g).all() for g in found.gradients())


def test_a_mask_for_each_example_and_causality_together() -> None:
    x = rng.normal(size=(2, 3, 4))
    text = """
layer both(x, m) { self_attention(x, heads = 2, mask = m > 0, causal = true) }
model net = both()
fn f(x, m) = net(x, m)
"""
    m = np.ones((2, 3, 3))
    m[0, 2, 0] = 0
    full = elaborate(text, x, np.ones((2, 3, 3))).values()[0]
    found = elaborate(text, x, m).values()[0]
    assert not np.allclose(full, elaborate(text.replace("true", "false"), x, m).values()[0])
    np.testing.assert_allclose(found[1], full[1])
    np.testing.assert_allclose(found[0, :2], full[0, :2])
    assert not np.allclose(found[0, 2], full[0, 2])


def test_dropout_in_a_block_is_that_of_training() -> None:
    x = rng.normal(size=(2, 3, 4))
    plain = layer("transformer_encoder(2)", x).values()[0]
    call = "transformer_encoder(2, drop = 0.5)"
    assert not np.allclose(layer(call, x).values()[0], plain)
    np.testing.assert_allclose(layer(call, x, training=False).values()[0], plain)


# -- positions -------------------------------------------------------------------------------------


def test_sinusoids() -> None:
    found = value("fn f() = sinusoids(7, 6)")
    t, i = np.arange(7)[:, None], np.arange(3)
    angles = t / 10000 ** (2 * i / 6)
    np.testing.assert_allclose(found[:, 0::2], np.sin(angles), rtol=1e-12)
    np.testing.assert_allclose(found[:, 1::2], np.cos(angles), rtol=1e-12)
    halves = value("fn f() = sinusoids_halves(7, 6)")
    np.testing.assert_allclose(halves, np.concatenate([found[:, 0::2], found[:, 1::2]], -1))
    x = rng.normal(size=(2, 7, 6))
    np.testing.assert_allclose(value("fn f(x) = sinusoidal_positions(x)", x), x + found)


@pytest.mark.parametrize("name", ["rotary", "rotary_halves"])
def test_rotated_products_depend_on_distances_alone(name: str) -> None:
    q, k = rng.normal(size=4), rng.normal(size=4)
    rows = np.stack([np.broadcast_to(r, (6, 4)) for r in (q, k)])
    a, c = value(f"fn f(x) = {name}(x)", rows)
    products = a @ c.T
    for distance in range(-3, 4):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-9)
    np.testing.assert_allclose((a**2).sum(-1), (q**2).sum())
    np.testing.assert_allclose(a[0], q)


def test_the_two_layouts_of_rotary_pairs_differ_by_order() -> None:
    x, order = rng.normal(size=(2, 3, 5, 6)), [0, 2, 4, 1, 3, 5]
    pairs = value("fn f(x) = rotary(x)", x)
    halves = value("fn f(x) = rotary_halves(x)", x[..., order])
    np.testing.assert_allclose(halves, pairs[..., order], rtol=1e-12)
    t = 4
    turn = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    np.testing.assert_allclose(pairs[..., t, :2], x[..., t, :2] @ turn.T, rtol=1e-12)


def test_learned_positions_and_the_class_token() -> None:
    x = rng.normal(size=(2, 3, 4))
    table, token = rng.normal(size=(5, 4)), rng.normal(size=4)
    found = layer("learned_positions(5)", x).values({"net.table": table})[0]
    np.testing.assert_allclose(found, x + table[:3])
    found = layer("class_token()", x).values({"net.token": token})[0]
    np.testing.assert_array_equal(found[:, 0], np.broadcast_to(token, (2, 4)))
    np.testing.assert_array_equal(found[:, 1:], x)


def test_patches_are_projected_in_rows() -> None:
    x, w, b = rng.normal(size=(2, 3, 4, 6)), rng.normal(size=(5, 3, 2, 2)), rng.normal(size=5)
    found = layer("patch_embedding(5, patch = 2)", x)
    y = found.values({"net.conv.w": w, "net.conv.b": b})[0]
    patches = x.reshape(2, 3, 2, 2, 3, 2).transpose(0, 2, 4, 1, 3, 5).reshape(2, 6, 12)
    np.testing.assert_allclose(y, patches @ w.reshape(5, 12).T + b, rtol=1e-12)


def test_parameter_counts_of_published_blocks() -> None:
    """An encoder block of ViT-B/16 and of BERT base has 7,087,872; attention 4 (D^2 + D)."""
    x = np.zeros((1, 2, 768))
    assert parameter_count(layer("self_attention(12)", x)) == 4 * (768**2 + 768)
    assert parameter_count(layer("transformer_encoder_prenorm(12)", x)) == 7_087_872
    image = np.zeros((1, 3, 32, 32))
    assert parameter_count(layer("patch_embedding(768)", image)) == 590_592


# -- parameters with two uses, and blocks ----------------------------------------------------------


TIED = """
layer tied(ids, words = 5, units = 3) {
  let h, table = ids |> embedding_and_table(words, units)
  h |> tanh |> unembed(table)
}
model net = tied()
fn f(ids) = net(ids)
"""


def test_a_table_that_is_used_twice_gets_both_gradients() -> None:
    ids, table = np.array([[1, 4, 1]]), rng.normal(size=(5, 3))
    found = elaborate(TIED, ids)
    assert parameter_count(found) == 15
    states = {"net.embedding_and_table.table": table}
    np.testing.assert_allclose(found.values(states)[0], np.tanh(table[ids]) @ table.T)
    weights, step = rng.normal(size=(1, 3, 5)), rng.normal(size=(5, 3))
    (gradient,) = found.gradients(*states, weights=weights, states=states)

    def along(amount: float) -> float:
        moved = table + amount * step
        return float((weights * (np.tanh(moved[ids]) @ moved.T)).sum())

    slope = (along(1e-5) - along(-1e-5)) / 2e-5
    np.testing.assert_allclose((gradient * step).sum(), slope, rtol=1e-7)


def test_a_model_inside_of_a_layer_shares_its_parameters() -> None:
    text = """
model half = dense(4)
layer siamese(x, y) { cosine_similarity(x |> half |> half, y |> half |> half) }
model net = siamese()
fn f(x, y) = net(x, y)
"""
    x, y = rng.normal(size=(2, 4)), rng.normal(size=(2, 4))
    found = elaborate(text, x, y)
    assert parameter_count(found) == 20
    w = found.initial["half.w"]
    a, c = x @ w @ w, y @ w @ w
    expected = (a * c).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(c, axis=-1)
    np.testing.assert_allclose(found.values()[0], expected)


BRANCH = """
layer branch(x: float[B, ...S], channels, step = 1) { x |> conv(channels, stride = step) |> tanh }
"""


def test_skips() -> None:
    x = rng.normal(size=(2, 4, 6, 6))
    branch = layer("branch(4)", x, extra=BRANCH)
    states = {k.replace("net.", "net.branch."): v for k, v in branch.initial.items()}
    y = branch.values()[0]
    found = layer("residual(branch, [4])", x, extra=BRANCH)
    np.testing.assert_allclose(found.values(states)[0], x + y)
    found = layer("residual_projected(branch, [4])", x, extra=BRANCH)
    np.testing.assert_allclose(found.values(states)[0], x + y)
    found = layer("dense_connection(branch, [4])", x, extra=BRANCH)
    np.testing.assert_allclose(found.values(states)[0], np.concatenate([x, y], 1))


def test_a_projected_skip_follows_sizes() -> None:
    x = rng.normal(size=(2, 4, 5, 6))
    found = layer("residual_projected(branch, [8, 2])", x, extra=BRANCH)
    w = found.initial["net.shortcut.conv.w"]
    assert w.shape == (8, 4, 1, 1)
    (y,) = found.values({"net.branch.conv.w": np.zeros((8, 4, 3, 3))})
    np.testing.assert_allclose(y, np.einsum("oc,nchw->nohw", w[:, :, 0, 0], x[:, :, ::2, ::2]))
    flat = layer("residual_projected(dense, [7])", x[:, :, 0, 0])
    assert flat.initial["net.shortcut.dense.w"].shape == (4, 7)


def test_squeeze_excitation() -> None:
    x = rng.normal(size=(2, 4, 3, 3))
    found = layer("squeeze_excitation(2)", x)
    w1, w2 = found.initial["net.dense.w"], found.initial["net.dense_2.w"]
    assert w1.shape == (4, 2)
    s = 1 / (1 + np.exp(-np.maximum(x.mean((2, 3)) @ w1, 0) @ w2))
    np.testing.assert_allclose(found.values()[0], x * s[:, :, None, None])


@pytest.mark.parametrize(
    ("call", "shape", "message"),
    [
        ("self_attention(5)", (2, 3, 4), "divides the units"),
        ("learned_positions(2)", (2, 3, 4), "more positions than learned ones"),
        ("sinusoidal_positions()", (2, 3, 5), "come in pairs"),
        ("rotary()", (2, 3, 5), "come in pairs"),
        ("residual(dense, [7])", (2, 4), "has the shape of x"),
    ],
)
def test_wrong_settings(call: str, shape: tuple[int, ...], message: str) -> None:
    text = "layer called(x) { x |> " + call + " }\nmodel net = called()\nfn f(x) = net(x)"
    assert message in refuses(text, np.zeros(shape))


@pytest.mark.parametrize("block", ["transformer_encoder", "transformer_encoder_prenorm"])
def test_dropout_of_the_weights_can_be_left_out(block: str) -> None:
    def draws(settings: str) -> int:
        result = layer(f"{block}(2, {settings})", np.zeros((2, 3, 4))).results[0].node
        inputs = tuple(node for node in topological([result]) if node.op.name == "input")
        graph = inline_calls(Graph("test", inputs, (result,)))
        return sum(node.op.name == "random_bits" for node in graph.nodes)

    assert draws("drop = 0.5") == 4
    assert draws("drop = 0.5, drop_weights = 0") == 3
    assert draws("drop_weights = 0.5") == 1
