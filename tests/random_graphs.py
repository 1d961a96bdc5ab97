"""Random well-typed graphs for property tests, tame enough that values can be compared."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from weft.compiler import builder as b
from weft.compiler.graph import Graph, Node, make
from weft.compiler.types import BOOL, F64, I32, U32, Dim, TensorType, static_shape, symbol

NUMBERS = (0, 1, -1, 2, 3, 0.5, -0.5, -0.0, 4, 1.7)
BATCH = symbol("batch")
SIZES = {"batch": 3}
Maker = Callable[[random.Random, Node], Node | None]


def graphs(nodes: int = 30) -> st.SearchStrategy[Graph]:
    """Graphs of about that many nodes over float64, int32 and bool tensors."""
    return st.randoms(use_true_random=False).map(lambda rng: random_graph(rng, nodes))


def random_graph(
    rng: random.Random, nodes: int = 30, calls: bool = True, outputs: int = 8
) -> Graph:
    """A graph that returns some of the nodes it made, and so holds what those need."""
    inputs = [
        b.input_("x", TensorType(F64, (3, 4))),
        b.input_("net.w/1", TensorType(F64, (4,))),
        b.input_("batch x", TensorType(F64, (BATCH, 4))),
        b.input_("n", TensorType(I32, (3, 4))),
        b.input_("s", TensorType(F64)),
        b.input_("flag", TensorType(BOOL, (3, 4))),
    ]
    pool = list(inputs)
    while len(pool) < nodes:
        maker = rng.choice(_MAKERS if calls else _MAKERS[:-1])
        made = maker(rng, rng.choice(pool[-8:] if rng.random() < 0.4 else pool))
        if made is None:
            other = rng.choice([n for n in pool if n.type == pool[-1].type])
            if other.type.dtype != BOOL:
                made = make(rng.choice(("add", "subtract", "multiply")), pool[-1], other)
        if made is not None and _small(made):
            # Bounded, so that values stay comparable; now and then not, so that rules meet.
            tame = made.type.dtype == F64 and rng.random() < 0.4
            pool.append(b.unary("tanh", made) if tame else made)
    names = tuple(f"out {i}" if i % 2 else f"o.{i}" for i in range(outputs))
    return Graph("random", tuple(inputs), tuple(rng.sample(pool, outputs)), names)


def arrays(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """An array per input, of moderate numbers."""
    rng = np.random.default_rng(seed)
    values = {}
    for node in graph.inputs:
        shape = static_shape(
            tuple(d if isinstance(d, int) else SIZES["batch"] for d in node.type.shape)
        )
        values[node.name] = rng.uniform(-3, 3, shape).astype(node.type.dtype.numpy)
        if node.type.dtype == U32:
            values[node.name] = rng.integers(0, 99, shape, np.uint32)
    return values


def _small(node: Node) -> bool:
    return all(not isinstance(d, int) or d < 20 for d in node.type.shape) and node.type.rank < 5


def _unary(rng: random.Random, x: Node) -> Node | None:
    if x.type.dtype == F64:
        choice = rng.randrange(8)
        if choice == 0:
            return make("sqrt", make("abs", x) + 1)
        if choice == 1:
            return 1 / make("sqrt", make("abs", x) + 0.5)
        if choice == 2:
            return (make("abs", x) + 0.5) ** rng.choice((-1, -0.5, 0, 0.5, 1, 2, 3, 1.5))
        if choice == 3:
            return b.log(b.exp(b.unary("sin", x)))
        return make(rng.choice(("negate", "abs", "sin", "stop_gradient")), x)
    if x.type.dtype == I32:
        return make(rng.choice(("negate", "abs", "not")), x)
    return make("not", x)


def _with_number(rng: random.Random, x: Node) -> Node | None:
    number = rng.choice(NUMBERS)
    if x.type.dtype == F64:
        if rng.random() < 0.3 and number:
            return x / number
        op = rng.choice((Node.__add__, Node.__radd__, Node.__sub__, Node.__rsub__, Node.__mul__))
        return op(x, number)
    if x.type.dtype == I32:
        op = rng.choice((Node.__add__, Node.__rsub__, Node.__mul__, Node.__rmul__))
        return op(x, int(number))
    return make(rng.choice(("and", "or", "xor")), x, b.zeros(x.type))


def _choose(rng: random.Random, x: Node) -> Node | None:
    if x.type.dtype != I32:
        return _shuffle(rng, x)
    test = b.compare(rng.choice(("less", "equal", "greater_equal")), x, int(rng.choice(NUMBERS)))
    if rng.random() < 0.3:
        test = make("not", test)
    return b.select(test, x, rng.choice((x, x * 2, b.zeros(x.type))))


def _cast(rng: random.Random, x: Node) -> Node | None:
    # Floats are not cast to integers: rounding may differ in the last place, the integer by 1.
    if x.type.dtype == F64:
        return make("cast", x, dtype=F64)
    return make("cast", x, dtype=rng.choice((F64, I32) if x.type.dtype == BOOL else (F64,)))


def _shuffle(rng: random.Random, x: Node) -> Node | None:
    shape = x.type.shape
    axes = list(range(len(shape)))
    choice = rng.randrange(7)
    if choice == 0:
        rng.shuffle(axes)
        return make("transpose", x, permutation=tuple(axes))
    if choice == 1:
        return make("reverse", x, axes=tuple(sorted(rng.sample(axes, len(axes) // 2))))
    if choice == 2:
        extra = rng.randrange(len(axes) + 1)
        wide: tuple[Dim, ...] = (*shape[:extra], rng.choice((1, 2, 3, BATCH)), *shape[extra:])
        dims = tuple(i if i < extra else i + 1 for i in axes)
        return make("broadcast_in_dim", x, shape=wide, dims=dims)
    if choice == 3:
        return make("reshape", x, shape=rng.choice(((x.type.size,), (1, *shape), shape[::-1])))
    if not axes:
        return None
    axis = rng.choice(axes)
    size = shape[axis]
    if choice == 4 and isinstance(size, int) and size:
        start = rng.randrange(size)
        return b.slice_axis(x, axis, start, rng.randint(start + 1, size), rng.choice((1, 1, 2)))
    if choice == 5 and isinstance(size, int) and size > 1:
        cut = rng.randrange(1, size)
        parts = [b.slice_axis(x, axis, 0, cut), b.slice_axis(x, axis, cut, size)]
        whole = make("concat", *parts, axis=axis)
        return whole if rng.random() < 0.5 else b.slice_axis(whole, axis, 0, cut)
    low = [rng.randrange(2) for _ in axes]
    return make(
        "pad", x, low=tuple(low), high=tuple(reversed(low)), interior=(0,) * len(axes), value=0
    )


def _reduce(rng: random.Random, x: Node) -> Node | None:
    axes = tuple(sorted(rng.sample(range(x.type.rank), rng.randint(0, x.type.rank))))
    if x.type.dtype == BOOL:
        return make("reduce_or", x, axes=axes)
    return make(rng.choice(("reduce_sum", "reduce_max", "reduce_min")), x, axes=axes)


def _product(rng: random.Random, x: Node) -> Node | None:
    if x.type.dtype != F64 or x.type.rank != 2:
        return None
    other = b.transpose(x, (1, 0))
    if rng.random() < 0.5:
        return b.dot_general(x, other, ((1,), (0,)))
    return b.transpose(b.dot_general(other, b.unary("sin", other), ((1,), (1,))), (1, 0))


def _source(rng: random.Random, x: Node) -> Node | None:
    if x.type.rank and rng.random() < 0.5:
        return make("iota", dtype=F64, shape=x.type.shape, axis=rng.randrange(x.type.rank))
    if rng.random() < 0.5:
        return b.size_of((BATCH, 2), F64)
    return make("constant", value=(1.0, 2.0, rng.choice((2.0, -0.0))), dtype=F64, shape=(3,))


def _call(rng: random.Random, x: Node) -> Node | None:
    inner = b.input_("x", x.type)
    body = Graph(rng.choice(("f", "g")), (inner,), (_unary(rng, inner) or inner,))
    return make("call", x, name=body.name, body=body, config=(("k", 1),), gradient=None)


_MAKERS: tuple[Maker, ...] = (
    _unary,
    _unary,
    _with_number,
    _with_number,
    _choose,
    _cast,
    _shuffle,
    _shuffle,
    _reduce,
    _product,
    _source,
    _call,
)


def as_state(graph: Graph, rng: random.Random) -> Graph:
    """The graph with most of its inputs as states that it updates, some to each other's values."""
    outputs = dict(graph.named_outputs)
    for state in graph.inputs:
        if rng.random() < 0.8:
            outputs[state.name] = rng.choice([n for n in graph.nodes if n.type == state.type])
    return graph.with_outputs(outputs)
