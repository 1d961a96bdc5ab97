"""The backend against the reference: random bits, kernels, whole graphs, and what it may touch.

random bits   the same words as the published generator gives, bit for bit
kernels       each group of the plans alone, within the bound of its own rounding
graphs        each graph from the same state and batch, within the bound of the whole
repeats       twice from one state gives the same bits; what nothing assigns stays
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from weft.compiler import builder as b
from weft.compiler.collector import no_cycles
from weft.compiler.composites import bodies
from weft.compiler.errors import Span
from weft.compiler.graph import Graph, Node, make, substitute, topological
from weft.compiler.passes.fuse import LEAVES, Group, fuse
from weft.compiler.passes.memory import plan
from weft.compiler.passes.pack import gathered
from weft.compiler.philox import philox4x32, stream_id
from weft.compiler.text import graph_hash
from weft.compiler.types import U32, TensorType, static_shape
from weft.runtime.session import compiled
from weft.runtime.verification.report import Check, Tally, number
from weft.runtime.verification.rounding import Bounded, bounded
from weft.runtime.verification.subject import GRAPHS, Arrays, Subject, observe, opened

TOGETHER = 32  # kernels that are compiled at once
KERNELS = 300  # distinct kernels of a graph that are run alone
_ONES = 0xFFFFFFFF

# Known answers that the authors of Philox4x32-10 publish with it (Random123, `kat_vectors`):
# counter, key, output.
_PUBLISHED = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((_ONES,) * 4, (_ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)

# -- random bits ----------------------------------------------------------------------------------

# Seeds, and steps with them: the corners, and what is like nothing else.
_DRAWN_AT = (((0, 0), 0), ((1, 0), 1), ((_ONES, _ONES), _ONES), ((0xDEADBEEF, 0x12345678), 4097))


def random_bits(subject: Subject) -> Check:
    """Words of every stream that the graphs draw from."""
    tally = Tally("random bits", "words of each stream against Philox4x32-10, bit for bit")
    for counter, key, output in _PUBLISHED:
        found = tuple(int(word) for word in philox4x32(counter, key))
        if not tally.add("a published answer", float(found != output), 0.0, 4):
            tally.fault(
                "the random generator is not Philox4x32-10",
                None,
                f"{_hexadecimal(output)}, as published, for the counter {_hexadecimal(counter)}",
                _hexadecimal(found),
            )
    for stream, (shape, span) in _streams(subject).items():
        _stream(tally, subject, stream, shape, span)
    return tally.check()


def _hexadecimal(words: tuple[int, ...]) -> str:
    return " ".join(f"{word:08x}" for word in words)


def _streams(subject: Subject) -> dict[str, tuple[tuple[int, ...], Span | None]]:
    """Each stream with the largest shape that is drawn from it; one of 9 words where none is."""
    found: dict[str, tuple[tuple[int, ...], Span | None]] = {"verify": ((3, 3), None)}
    for name in GRAPHS:
        graph = opened(subject.built(name), subject.batch)
        for node in (n for part in (graph, *bodies(graph)) for n in part.nodes):
            if node.op.name == "random_bits":
                shape = static_shape(node.attributes["shape"])
                stream = node.attributes["stream"]
                if stream not in found or np.prod(shape) > np.prod(found[stream][0]):
                    found[stream] = (shape, node.span)
    return found


def _stream(
    tally: Tally, subject: Subject, stream: str, shape: tuple[int, ...], span: Span | None
) -> None:
    seed, step = b.input_("seed", TensorType(U32, (2,))), b.input_("step", TensorType(U32))
    node = make("random_bits", seed, step, shape=shape, stream=stream)
    run = compiled(Graph("bits", (seed, step), (node,)), subject.backend, {})
    count = int(np.prod(shape))
    for words, turn in _DRAWN_AT:
        given = {"seed": np.array(words, np.uint32), "step": np.array(turn, np.uint32)}
        found = np.array(run(given)["out"]).reshape(-1)
        low, high = stream_id(stream)
        blocks = np.arange(-(-count // 4), dtype=np.uint64)
        expected = np.stack(philox4x32((blocks, turn, low, high), words), -1).reshape(-1)[:count]
        wrong = np.flatnonzero(found != expected)
        if not tally.add(f"the stream `{stream}`", float(wrong.size), 0.0, count):
            tally.fault(
                f"the stream `{stream}` has other bits on {subject.backend.name}",
                span,
                f"{int(expected[wrong[0]]):08x} as word {wrong[0]} at step {turn}",
                f"{int(found[wrong[0]]):08x}; {wrong.size} of {count} words differ",
            )
            return


# -- kernels --------------------------------------------------------------------------------------


def kernels(subject: Subject) -> Check:
    """Each distinct kernel, on the values that it gets in the graph."""
    tally = Tally("kernels", "each kernel alone against the reference")
    seen: set[str] = set()
    for name in GRAPHS:
        found = _kernels(tally, subject, name, seen)
        while some := list(islice(found, TOGETHER)):
            for kernel, results in zip(some, _results(subject, some), strict=True):
                _kernel(tally, subject, name, kernel, results)
    return tally.check()


@dataclass(frozen=True, eq=False)
class _Kernel:
    """A group of a plan as a graph of its own, and values for what it reads."""

    graph: Graph
    group: Group
    inputs: Arrays
    span: Span | None


def _kernels(tally: Tally, subject: Subject, name: str, seen: set[str]) -> Iterator[_Kernel]:
    size = subject.sizes_of(name)[0]
    planned = subject.session.plan(name, size)
    alone = {group: _alone(group) for group in planned.groups}
    distinct: dict[str, Group] = {}
    for group, (graph, _) in alone.items():
        if group.kind != "source":
            key = f"{group.kind} {graph_hash(graph)}"
            if key not in seen:
                seen.add(key)
                distinct.setdefault(key, group)
    groups = list(distinct.values())
    if len(groups) > KERNELS:
        every = -(-len(groups) // KERNELS)
        tally.notes.append(f"every {every}th of {len(groups)} distinct kernels of {name} is run")
        groups = groups[::every]
    wanted = {node for group in groups for node in group.inputs}
    values: dict[Node, np.ndarray] = {}

    def keep(node: Node, value: np.ndarray) -> None:
        if node in wanted:
            values[node] = _typed(value, node)

    known = {**subject.state, **subject.inputs(name, size)}
    arenas = {a.name: a for a in subject.session.target(name, size).arenas}
    given = {
        n.name: gathered(known, arenas[n.name]) if n.name in arenas else known[n.name]
        for n in planned.graph.inputs
    }
    observe(planned.graph, given, keep)
    for group in groups:
        graph, inputs = alone[group]
        yield _Kernel(
            graph,
            group,
            {i.name: values[node] for node, i in inputs.items()},
            next((n.span for n in group.nodes if n.span is not None), None),
        )


def _alone(group: Group) -> tuple[Graph, dict[Node, Node]]:
    """A group as a graph, and its inputs by what they stand for; constants are part of it."""
    inputs = {
        node: b.input_(f"x{i}", node.type)
        for i, node in enumerate(group.inputs)
        if node.op.name != "constant"
    }
    outputs = tuple(substitute(group.outputs, inputs))
    return Graph("kernel", tuple(inputs.values()), outputs), inputs


def _results(subject: Subject, kernels: Sequence[_Kernel]) -> list[Arrays]:
    """What each kernel gives, in its own outputs' names: compiled side by side, in one graph."""
    inputs: dict[str, Node] = {}
    outputs: dict[str, Node] = {}
    groups: list[Group] = []
    for i, kernel in enumerate(kernels):
        own = {n: b.input_(f"{i}.{n.name}", n.type) for n in kernel.graph.inputs}
        made = tuple(substitute(kernel.graph.outputs, own))
        nodes = {n: None for n in topological(made) if n.op.name not in LEAVES}
        reads = dict.fromkeys(o for n in nodes for o in n.inputs if o not in nodes)
        groups.append(Group(kernel.group.kind, tuple(nodes), tuple(reads), made))
        inputs |= {node.name: node for node in own.values()}
        outputs |= {f"{i}.{n}": v for n, v in zip(kernel.graph.output_names, made, strict=True)}
    graph = Graph("kernels", tuple(inputs.values()), tuple(outputs.values()), tuple(outputs))
    backend = subject.backend
    with no_cycles():
        run = backend.compile(plan(graph, groups, backend.abilities, frozenset())).bind({})
    given = {f"{i}.{n}": v for i, kernel in enumerate(kernels) for n, v in kernel.inputs.items()}
    found = run(given)
    return [
        {n: np.array(found[f"{i}.{n}"]) for n in kernel.graph.output_names}
        for i, kernel in enumerate(kernels)
    ]


def _kernel(tally: Tally, subject: Subject, name: str, kernel: _Kernel, results: Arrays) -> None:
    graph, backend = kernel.graph, subject.backend
    expected = bounded(graph, kernel.inputs)
    work = " ".join(n.op.name for n in kernel.group.nodes)
    what = f"{kernel.group.kind} `{work if len(work) < 60 else work[:57] + '...'}` of {name}"
    for output, node in graph.named_outputs.items():
        judged = expected.judge(output, results[output])
        if not tally.add(what, judged.error, judged.bound, 1):
            part = _wrong_part(subject, kernel)
            alone = f", where `{part.op.name}` alone is wrong" if part is not None else ""
            tally.fault(
                f"a kernel of {name} is wrong on {backend.name}{alone}: {work}",
                part.span if part is not None and part.span is not None else kernel.span,
                f"{number(judged.expected)} at {list(judged.place)} of {node.type}, give or take "
                f"{number(judged.bound)}",
                number(judged.found),
                None if alone else "each of its operations alone is right: look at how they join",
            )
            return


def _wrong_part(subject: Subject, kernel: _Kernel) -> Node | None:
    """The first operation of a kernel that is wrong alone too, on what it gets there."""
    values: dict[Node, np.ndarray] = {}
    observe(kernel.graph, kernel.inputs, values.__setitem__)
    parts: list[tuple[Node, _Kernel]] = []
    for node in kernel.graph.nodes:
        whole = Group("", (node,), tuple(dict.fromkeys(node.inputs)), (node,))
        graph, inputs = _alone(whole)
        groups = fuse(graph)
        if node.op.name not in LEAVES and len(groups) == 1:
            given = {i.name: _typed(values[n], n) for n, i in inputs.items()}
            parts.append((node, _Kernel(graph, groups[0], given, node.span)))
    results = _results(subject, [part for _, part in parts])
    for (node, part), found in zip(parts, results, strict=True):
        if not bounded(part.graph, part.inputs).judge("out", found["out"]).within:
            return node
    return None


def _typed(value: np.ndarray, node: Node) -> np.ndarray:
    """A value of double precision in the node's own type."""
    with np.errstate(all="ignore"):
        return value.astype(node.type.dtype.numpy, copy=False)


# -- whole graphs ---------------------------------------------------------------------------------


def graphs(subject: Subject) -> Check:
    """Every output of every graph, for the batches that come and a single example."""
    tally = Tally("graphs", "each output of each graph against the reference")
    unjudged = total = 0
    for name in GRAPHS:
        for size in subject.sizes_of(name):
            left_out, count = graph(tally, subject, name, size)
            unjudged += left_out
            total += count
    if unjudged:
        tally.notes.append(f"{unjudged} of {total} numbers have no bound: they are not finite")
    return tally.check()


def graph(tally: Tally, subject: Subject, name: str, size: int) -> tuple[int, int]:
    """Every output of a graph for a batch: how many numbers have no bound, of how many."""
    inputs = subject.inputs(name, size)
    expected = bounded(subject.graph(name), inputs, {"batch": size})
    unjudged = _outputs(tally, subject, name, size, expected, run(subject, name, inputs, size))
    return unjudged, sum(value.size for value in expected.exact.values())


def run(subject: Subject, name: str, inputs: Arrays, size: int) -> Arrays:
    """The outputs of a graph on the backend, from the subject's state, which is left as it was."""
    session = subject.session
    given = session.tensors()
    for state, array in given.items():
        array[...] = inputs.get(state, subject.state[state])
    saved = session.copy()
    found = {k: np.array(v) for k, v in session.run(name, inputs, size).items()}
    updated = set(session.graph(name).output_names)
    found |= {n: v.copy() for n, v in session.tensors().items() if n in updated}
    session.restore(saved)
    return found


def _outputs(
    tally: Tally,
    subject: Subject,
    name: str,
    size: int,
    expected: Bounded,
    found: Mapping[str, np.ndarray],
) -> int:
    unjudged = 0
    for output, value in expected.exact.items():
        judged = expected.judge(output, found[output])
        unjudged += judged.unjudged
        what = f"`{output}` of {name}, a batch of {size}"
        if not tally.add(what, judged.error, judged.bound, value.size):
            state = subject.loaded.program.states.get(output)
            node = subject.built(name).named_outputs[output]
            tally.fault(
                f"`{output}` of {name} is wrong on {subject.backend.name}, for a batch of {size}",
                state.span if state is not None and state.span is not None else node.span,
                f"{number(judged.expected)} at {list(judged.place)}, give or take "
                f"{number(judged.bound)}",
                number(judged.found),
            )
    return unjudged


# -- repeats --------------------------------------------------------------------------------------


def repeats(subject: Subject) -> Check:
    """The same bits twice, and old bits in what no graph assigns."""
    tally = Tally("repeats", "the same bits again, and untouched states as they were")
    for name in GRAPHS:
        _repeat(tally, subject, name)
    return tally.check()


def _repeat(tally: Tally, subject: Subject, name: str) -> None:
    size = subject.sizes_of(name)[0]
    inputs = subject.inputs(name, size)
    (once, given), (again, _) = (_traced(subject, name, inputs, size) for _ in range(2))
    assigned = set(subject.built(name).output_names)

    def same(output: str, found: np.ndarray, wanted: np.ndarray, fault: str) -> None:
        equal = found.tobytes() == wanted.tobytes()
        if not tally.add(f"`{output}` of {name}", float(not equal), 0.0):
            span = _span(subject, name, output)
            tally.fault(f"{name} {fault} `{output}`", span, "the same bits", "others")

    for output, value in once.items():
        same(output, value, again[output], "run again gives other bits for")
        if output in subject.state and output not in assigned:
            same(output, value, subject.state[output], "writes to what nothing assigns there,")
    for field, value in given.items():
        same(field, value, inputs[field], "writes to what it was given,")


def _traced(subject: Subject, name: str, inputs: Arrays, size: int) -> tuple[Arrays, Arrays]:
    """All outputs and all states after a run, and what it was given, as it is then."""
    session = subject.session
    for state, array in session.tensors().items():
        array[...] = inputs.get(state, subject.state[state])
    saved = session.copy()
    given = {k: v.copy() for k, v in inputs.items()}
    results = {k: np.array(v) for k, v in session.run(name, given, size).items()}
    found = {**{k: v.copy() for k, v in session.tensors().items()}, **results}
    session.restore(saved)
    return found, given


def _span(subject: Subject, name: str, output: str) -> Span | None:
    state = subject.loaded.program.states.get(output)
    if state is not None:
        return state.span
    node = subject.built(name).named_outputs.get(output)
    return node.span if node is not None else None
