"""Attention as kernels that never have its weights in memory: what they give, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import pytest

from conformance.backends import INSTALLED, run_twice
from cupy_backend.emulated import BACKEND, emulated
from cupy_backend.emulator import Emulator
from cupy_backend.nvrtc import SAMPLED, compiled, compiles
from language.elaborated import cotangent, elaborate
from weft.backends.cupy import attention as attention_printer
from weft.backends.cupy.backend import CupyBackend
from weft.backends.cupy.code import headers
from weft.compiler import builder as b
from weft.compiler.analysis import flops
from weft.compiler.costs import kernel_cost
from weft.compiler.evaluate import evaluate
from weft.compiler.gradient import differentiate, vjp
from weft.compiler.graph import Graph, Node, make, substitute, topological, transform
from weft.compiler.kernel import Attention
from weft.compiler.kernel_text import text
from weft.compiler.passes.attention import attend
from weft.compiler.passes.kernels import kernels
from weft.compiler.pipeline import compile_plan, lower
from weft.compiler.plan import Plan, Target
from weft.compiler.types import BF16, F16, F32, F64, DType, static_shape
from weft.compiler.verify import verify as verified
from weft.runtime.backends import backend_named

Arrays = dict[str, np.ndarray]

WINDOW = """
fn window(queries: int, keys: int, width: int) {
  let key = broadcast(arange(keys), [queries, keys])
  let query = broadcast(reshape(arange(queries), [queries, 1]), [queries, keys])
  key <= query and query - key < width
}
"""
HEADS = """
fn f(q, k, v) {
  let y = attention(split_heads(q, 2), split_heads(k, 2), split_heads(v, 2))
  merge_heads(y)
}
"""
PADDED = """
fn f(q, k, v, m) {
  let mask = head_mask([3, 2, 10, 13], true, CAUSAL, m > 0)
  attention(q, k, v, mask)
}
"""


SLOPES = """
fn slopes(queries: int, keys: int) {
  let key = float(broadcast(arange(keys), [queries, keys]))
  let query = float(broadcast(reshape(arange(queries), [queries, 1]), [queries, keys]))
  0.1 * (query - key)
}
"""
SHARED = "broadcast(reshape({}, [2, 1, 9, 4]), [2, 3, 9, 4])"


def net(call: str) -> str:
    return f"""
layer net_of(q, k, v) {{ {call} }}
model net = net_of()
fn f(q, k, v) = net(q, k, v)
"""


@dataclass(frozen=True)
class Case:
    """`f` of a source, with operands of these shapes; those after the third are 0 or 1."""

    text: str
    shapes: tuple[tuple[int, ...], ...]
    low: float = 0.25  # of the last operand, the share of zeros
    parts: int = 3


def attention(q: tuple[int, ...], keys: int, width: int, more: str = "") -> Case:
    lead, depth = q[:-2], q[-1]
    shapes = (q, (*lead, keys, depth), (*lead, keys, width))
    return Case(f"fn f(q, k, v) = attention(q, k, v{more})", shapes)


CASES = {
    "one tile": attention((2, 3, 12, 8), 12, 8),
    "no batch": attention((5, 4), 7, 3),
    "one query": attention((2, 1, 16), 40, 16),
    "two keys": attention((2, 9, 4), 2, 4),
    "tiles that are cut": attention((2, 70, 20), 131, 33),
    "wide heads": attention((1, 40, 128), 67, 128),
    "causal": attention((2, 100, 16), 100, 16, ", causal_mask(100)"),
    "causal, heads of 64": attention((1, 65, 64), 129, 64, ", causal_mask(65, 129)"),
    "causal, more queries": attention((1, 90, 8), 50, 8, ", causal_mask(90, 50)"),
    "causal, more keys": attention((1, 40, 8), 140, 8, ", causal_mask(40, 140)"),
    "unscaled": Case(
        "fn f(q, k, v) = attention_unscaled(q, k, v)", ((2, 9, 4), (2, 11, 4), (2, 11, 5))
    ),
    "a window": Case(
        WINDOW + "fn f(q, k, v) = attention(q, k, v, window(120, 120, 20))",
        ((2, 120, 8), (2, 120, 8), (2, 120, 8)),
    ),
    "heads side by side": Case(HEADS, ((2, 11, 12), (2, 14, 12), (2, 14, 12))),
    "a mask": Case(
        "fn f(q, k, v, m) = attention(q, k, v, m > 0)",
        ((2, 17, 8), (2, 19, 8), (2, 19, 8), (17, 19)),
    ),
    "padding": Case(
        PADDED.replace("CAUSAL", "false"), ((3, 2, 10, 6), (3, 2, 13, 6), (3, 2, 13, 4), (3, 13))
    ),
    "padding and causal": Case(
        PADDED.replace("CAUSAL", "true"),
        ((3, 2, 10, 6), (3, 2, 13, 6), (3, 2, 13, 4), (3, 13)),
        0.6,
    ),
    "rows of nothing in later tiles": Case(
        "fn f(q, k, v, m) = attention(q, k, v, head_mask([1, 1, 140, 140], true, true, m > 0))",
        ((1, 1, 140, 4), (1, 1, 140, 4), (1, 1, 140, 4), (1, 140)),
        0.97,
    ),
    "dropout": Case(
        net("(attention_weights(q, k) |> dropout(0.3)) @ v"),
        ((2, 20, 8), (2, 37, 8), (2, 37, 8)),
    ),
    "one head of one example": Case(
        net("multi_head_attention(q, k, v, 1, causal = true)"), ((1, 20, 8), (1, 23, 8), (1, 23, 8))
    ),
    "a decoder": Case(
        net("transformer_decoder(q, k, 2) + v"), ((2, 20, 8), (2, 11, 8), (2, 20, 8)), parts=6
    ),
    "keys that heads share": Case(
        f"fn f(q, k, v) = attention(q, {SHARED.format('k')}, {SHARED.format('v')})",
        ((2, 3, 11, 4), (2, 9, 4), (2, 9, 4)),
    ),
    "of itself": Case("fn f(q, k, v) = attention(q, q, q) * k * v", ((2, 20, 8),) * 3),
    "of attention": Case(
        "fn f(q, k, v) = attention(attention(q, k, v), k, v)", ((2, 20, 8),) * 3, parts=6
    ),
    "the other way round": Case(
        "fn f(q, k, v) = transpose(v, [1, 0]) @ transpose(attention_weights(q, k), [1, 0])",
        ((20, 8), (27, 8), (27, 8)),
    ),
    "slopes by distance": Case(
        SLOPES + "fn f(q, k, v) = softmax(q @ transpose(k, [1, 0]) - slopes(33, 39)) @ v",
        ((33, 8), (39, 8), (39, 8)),
    ),
    "capped scores": Case(
        "fn f(q, k, v) = softmax(3 * tanh(q @ transpose(k, [1, 0]) / 3)) @ v",
        ((33, 8), (39, 8), (39, 8)),
    ),
}  # fmt: skip


def graph_of(
    case: Case, float_type: DType, gradient: bool = True, tf32: bool = False
) -> tuple[Graph, Arrays]:
    """The result, and the gradients of its weighted sum by queries, keys and values."""
    rng = np.random.default_rng(len(case.text) + prod(case.shapes[0]))
    arrays = [rng.normal(size=shape).astype(float_type.numpy) for shape in case.shapes[:3]]
    arrays += [
        (rng.uniform(size=shape) > case.low).astype(float_type.numpy) for shape in case.shapes[3:]
    ]
    made = elaborate(case.text, *arrays, float_type=float_type)
    result, values = made.results[0].node, made.initial
    if tf32:
        result = rounding(result)
    values |= {n.name: a for n, a in zip(made.arguments, made.arrays, strict=True)}
    outputs = {"out": result}
    if gradient:
        ct = b.input_("ct", result.type)
        values["ct"] = cotangent(static_shape(result.type.shape)).astype(float_type.numpy)
        found = vjp([result], [ct], made.arguments[:3])
        outputs |= dict(zip(("dq", "dk", "dv"), found, strict=True))
    inputs = [n for n in topological(outputs.values()) if n.op.name == "input"]
    graph = Graph("g", tuple(inputs), tuple(outputs.values()), tuple(outputs))
    return graph, {n.name: values[n.name] for n in inputs}


def rounding(result: Node) -> Node:
    """The same with products that may round their factors to TF32, as those of a model may."""
    inputs = tuple(n for n in topological([result]) if n.op.name == "input")
    (found,) = transform(Graph("g", inputs, (result,)), _rounding).outputs
    return found


def _rounding(node: Node, operands: tuple[Node, ...]) -> Node | None:
    changed: dict[str, object] = {}
    if node.op.name == "dot_general":
        changed["factors"] = "tf32"
    elif "body" in node.attributes:
        changed["body"] = transform(node.attributes["body"], _rounding)
    attributes = {**node.attributes, **changed}
    return make(node.op.name, *operands, **attributes) if changed else None


def random_case(number: int) -> Case:
    """Sizes, scale, masks and dropout as they come."""
    rng = np.random.default_rng(number)
    lead: tuple[int, ...] = [(), (2,), (2, 3)][number % 3]
    queries, keys, width = (int(n) for n in rng.integers(2, 90, 3))
    unscaled, drop, mask = bool(rng.integers(2)), bool(rng.integers(3) == 0), int(rng.integers(4))
    depth = int(rng.integers(1, 9 if unscaled else 129))
    given = ["true", "causal_mask(T, S)", "m > 0", "causal_mask(T, S) and m > 0"][mask]
    weights = f"attention_weights{'_unscaled' * unscaled}(q, k, {given})"
    text = f"""
layer net_of(q: float[...B, T, D], k: float[...B, S, D], v, m: float[T, S]) {{
  ({weights}{" |> dropout(0.2)" * drop}) @ v
}}
model net = net_of()
fn f(q, k, v, m) = net(q, k, v, m)
"""
    shapes = (*lead, queries, depth), (*lead, keys, depth), (*lead, keys, width), (queries, keys)
    return Case(text, shapes)


RANDOM = {f"problem {number}": random_case(number) for number in range(12)}


# As shares of the largest number: of a few operations that round, or of sums of many terms.
ERRORS = {F32: 40 * 2.0**-23, F64: 40 * 2.0**-52, F16: 8 * 2.0**-10, BF16: 8 * 2.0**-7}


def check(
    cases: Mapping[str, Case], type: DType, backend: CupyBackend = BACKEND, tf32: bool = False
) -> None:
    """Each gives what the reference does in double precision, but for rounding."""
    graphs = {name: graph_of(case, type, tf32=tf32) for name, case in cases.items()}
    error = ERRORS[F16 if tf32 else type]  # TF32 has as many bits after the point
    made = {name: backend.compile(planned(graph)) for name, (graph, _) in graphs.items()}
    functions = {n: text for one in made.values() for n, text in one.program.functions.items()}
    backend.device.load(headers(), functions)
    for name, (graph, values) in graphs.items():
        found = run_twice(made[name], graph, values)
        exact, wide = graph_of(cases[name], F64)
        wide |= {n: values[n].astype(a.dtype) for n, a in wide.items()}
        for output, value in evaluate(exact, wide).items():
            got, most = found[output].astype(np.float64), np.abs(value).max() * error
            np.testing.assert_allclose(got, value, 0, most, err_msg=f"{name}: {output}")


def representable(type: DType) -> dict[str, Case]:
    """In f16 a row that may look at nothing is no number: a mask is beyond its range."""
    return {name: case for name, case in CASES.items() if type is not F16 or case.low < 0.5}


def planned(graph: Graph) -> Plan:
    return compile_plan(graph, Target(abilities=BACKEND.abilities))


def parts(plan: Plan) -> int:
    return sum(group.kind == "attention" for group in plan.groups)


@pytest.mark.parametrize("name", {**CASES, **RANDOM})
def test_forward_queries_and_keys_are_kernels(name: str) -> None:
    case = {**CASES, **RANDOM}[name]
    plan = planned(graph_of(case, F32)[0])
    assert parts(plan) == case.parts
    assert parts(planned(graph_of(case, BF16)[0])) == case.parts
    assert parts(planned(graph_of(case, F32, gradient=False)[0])) == case.parts // 3
    pair = case.shapes[0][-2], case.shapes[1][-2]
    kept = {n.type.shape[-2:] for b in plan.buffers if b.kind == "arena" for n in b.nodes}
    assert pair not in kept or pair == case.shapes[2][-2:]


def test_one_that_can_not_be_had_leaves_the_others() -> None:
    """The gradient of keys waits for that of values here, so one kernel can't make both."""
    graph, _ = graph_of(attention((20, 8), 20, 8), F32)
    other, _ = graph_of(attention((20, 8), 30, 8), F32)
    y, k, dv = graph.named_outputs["out"], graph.named_inputs["k"], graph.named_outputs["dv"]
    outputs = (y, dv, *vjp([y], [make("tanh", dv)], [k]), *other.outputs)
    inputs = [n for n in topological(outputs) if n.op.name == "input"]
    renamed = {n: b.input_(f"x{i}", n.type) for i, n in enumerate(inputs)}
    both = Graph("g", tuple(renamed.values()), tuple(substitute(outputs, renamed)))
    assert parts(planned(both)) == 3
    found, _ = attend(lower(both, Target()), BACKEND.abilities.attention)
    rng = np.random.default_rng(0)
    values = {n.name: rng.normal(size=n.type.shape).astype(np.float32) for n in both.inputs}
    results = evaluate(found, values)
    for output, value in evaluate(both, values).items():
        np.testing.assert_allclose(results[output], value, 1e-4, 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_graph_with_parts_computes_the_same(name: str) -> None:
    """Without a kernel: what is computed again, and sums over rows another way."""
    graph, values = graph_of(CASES[name], F64)
    lowered = lower(graph, Target(abilities=BACKEND.abilities))
    found, regions = attend(lowered, BACKEND.abilities.attention)
    verified(found)
    assert len(regions) == CASES[name].parts
    assert found.output_names == graph.output_names
    own = [node for region in regions for node in region]
    assert len(own) == len(set(own))
    assert set(own) <= set(found.nodes)
    results = evaluate(found, values)
    for output, value in evaluate(graph, values).items():
        np.testing.assert_allclose(results[output], value, 1e-12, 1e-13)


@pytest.mark.parametrize("wanted", ["dq", "dk", "dv"])
def test_a_gradient_that_is_not_wanted_is_no_kernel(wanted: str) -> None:
    graph, _ = graph_of(CASES["causal"], F32)
    part = graph.with_outputs(
        {"out": graph.named_outputs["out"], wanted: graph.named_outputs[wanted]}
    )
    assert parts(planned(part)) == 2


def test_what_a_kernel_costs() -> None:
    queries, keys, depth, width = 60, 70, 8, 5
    graph, _ = graph_of(attention((2, queries, depth), keys, width), F32)
    forward, to_queries, to_keys = (
        k for k in kernels(planned(graph), BACKEND.abilities) if isinstance(k, Attention)
    )
    pairs, of_q, of_k = 2 * queries * keys, 2 * queries * depth, 2 * keys * depth
    of_v = 2 * keys * width
    cost, rows = kernel_cost(forward), 2 * queries
    # Scores are scaled, compared, less their maximum, raised, and added; each result divided.
    assert cost.flops == pairs * (2 * depth + 2 * width + 5) + rows * width
    assert cost.read == 4 * (of_q + of_k + of_v)
    assert cost.written == 4 * (rows * width + 2 * rows)
    for kernel in (to_queries, to_keys):
        assert kernel_cost(kernel).flops == sum(flops(node) for node in kernel.nodes)
    assert kernel_cost(to_queries).read == 4 * (of_q + of_k + of_v + rows * width + 3 * rows)
    assert kernel_cost(to_keys).written == 4 * (of_k + of_v)


def test_kernels_as_text() -> None:
    graph, _ = graph_of(CASES["causal"], F32, gradient=False)
    (kernel,) = kernels(planned(graph), BACKEND.abilities)
    found = text(kernel).splitlines()
    assert "  rows i1 < 100 columns i2 < 100" in found
    assert "  hidden where i2 - 1*i1 > 0" in found
    assert "  %1, %2, %3 = softmax" in found
    graph, _ = graph_of(CASES["a window"], F32, gradient=False)
    (kernel,) = kernels(planned(graph), BACKEND.abilities)
    assert "  hidden where i2 - 1*i1 > 0 or i1 - 1*i2 - 19 > 0" in text(kernel).splitlines()


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("cases", [CASES, RANDOM], ids=["cases", "random"])
@pytest.mark.parametrize("type", [F32, F64])
def test_results(type: DType, cases: Mapping[str, Case]) -> None:
    check(cases, type)


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("type", [F16, BF16], ids=str)
def test_results_of_16_bits(type: DType) -> None:
    check(representable(type), type)


@emulated
@pytest.mark.slow
def test_results_of_factors_rounded_to_tf32() -> None:
    check(CASES, F32, tf32=True)


@emulated
@pytest.mark.slow
@pytest.mark.parametrize(("type", "tf32"), [(F16, False), (BF16, False), (F32, True)])
def test_results_on_the_oldest_gpus(type: DType, tf32: bool) -> None:
    """These have tensor cores for f16 alone, with other instructions."""
    names = ("tiles that are cut", "causal, heads of 64", "wide heads")
    backend = CupyBackend(Emulator(arch=750))
    check({name: CASES[name] for name in names}, type, backend, tf32)


@pytest.mark.parametrize(
    ("type", "tf32", "word"),
    [(F16, False, "f16"), (BF16, False, "bf16"), (F32, True, "tf32"), (F32, False, "float")],
)
def test_tensor_cores_are_for_what_may_round(type: DType, tf32: bool, word: str) -> None:
    plan = planned(graph_of(CASES["causal"], type, tf32=tf32)[0])
    found = [k for k in kernels(plan, BACKEND.abilities) if isinstance(k, Attention)]
    assert [kernel.tf32 for kernel in found] == [tf32] * 3
    assert all((" factors tf32" in text(kernel)) == tf32 for kernel in found)
    functions = BACKEND.compile(plan).program.functions
    sources = [s for name, s in functions.items() if name.startswith("attention")]
    assert len(sources) == 3
    assert all(f"using Scores = tile::Tile<{word}," in source for source in sources)


@emulated
@pytest.mark.slow
def test_results_in_large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there are more heads and examples."""
    monkeypatch.setattr(attention_printer, "ENOUGH_TILES", 1)
    check(CASES, F32)


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("target", SAMPLED)
def test_for_gpus(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the largest tiles of the widest heads, which need most shared memory."""
    functions: dict[str, str] = {}
    for least, type, name, tf32 in (
        (1, F32, "wide heads", False),
        (1, F32, "rows of nothing in later tiles", False),
        (1, BF16, "wide heads", False),
        (1, F16, "dropout", False),
        (1, F32, "causal, heads of 64", True),
        (attention_printer.ENOUGH_TILES, F64, "wide heads", False),
    ):
        monkeypatch.setattr(attention_printer, "ENOUGH_TILES", least)
        graph, _ = graph_of(CASES[name], type, tf32=tf32)
        functions |= BACKEND.compile(planned(graph)).program.functions
    assert compiled({n: s for n, s in functions.items() if n.startswith("attention")}, target)


@emulated
@pytest.mark.slow
@pytest.mark.parametrize(("type", "tf32"), [(F32, False), (F32, True), (BF16, False)])
def test_a_tile_that_a_mask_hides_is_not_looked_at(type: DType, tf32: bool) -> None:
    """Values there are NaN, and gradients of what does not see them are numbers."""
    case = CASES["causal"]
    graph, values = graph_of(case, type, tf32=tf32)
    program = BACKEND.compile(planned(graph))
    values["v"][:, 64:] = np.nan  # later tiles of keys, of which queries before them see nothing
    found = run_twice(program, graph, values)
    for output in ("out", "dq"):
        assert np.isfinite(found[output][:, :64]).all()
        assert np.isnan(found[output][:, 64:]).all()
    values = graph_of(case, type)[1]
    values["ct"][:, :64] = np.nan  # and earlier tiles of queries, which later tiles of keys skip
    found = run_twice(program, graph, values)
    for output in ("dk", "dv"):
        assert np.isnan(found[output][:, :64]).all()
        assert np.isfinite(found[output][:, 64:]).all()


SCORES = "q @ transpose(k, [1, 0])"
OTHERS = {
    "the weights are wanted": "concat([attention(q, k, v), attention_weights(q, k)])",
    "products of three": f"softmax({SCORES} + q @ transpose(q, [1, 0])) @ v",
    "no softmax": f"sigmoid({SCORES}) @ v",
    "not linear in the weights": "attention_weights(q, k) ^ 2 @ v",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_stays_as_it_was(name: str) -> None:
    graph, _ = graph_of(Case(f"fn f(q, k, v) = {OTHERS[name]}", ((20, 8), (20, 8), (20, 8))), F32)
    assert parts(planned(graph)) == 0


def test_values_that_are_too_wide_stay_as_they_were() -> None:
    graph, _ = graph_of(attention((2, 9, 8), 9, BACKEND.abilities.attention + 1), F32)
    assert parts(planned(graph)) == 0


def test_a_gradient_of_a_gradient_stays_as_it_was() -> None:
    graph, _ = graph_of(attention((2, 9, 8), 9, 8), F32)
    inputs = graph.named_inputs
    norm = b.reduce_sum(make("multiply", *[graph.named_outputs["dq"]] * 2))
    again = differentiate(norm, [inputs["q"], inputs["v"]])
    assert parts(planned(Graph("g", graph.inputs, (*graph.outputs, *again)))) == 0


def test_only_backends_that_say_so_have_it() -> None:
    graph, _ = graph_of(CASES["causal"], F32)
    for name in INSTALLED:
        abilities = backend_named(name).abilities
        if not abilities.attention:
            assert parts(compile_plan(graph, Target(abilities=abilities))) == 0


def test_memory_grows_with_the_length_and_not_its_square() -> None:
    """Twice as long, twice the memory: of an encoder's training step."""
    sizes = []
    for length in (256, 512):
        shape = (1, 2, length, 16)
        graph, _ = graph_of(Case("fn f(q, k, v) = attention(q, k, v)", (shape,) * 3), F32)
        sizes.append(planned(graph).arena_bytes)
    assert sizes[1] <= 2 * sizes[0] + 1_024
