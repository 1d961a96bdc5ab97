"""Writes docs/library.md from the sources of the library, and the figures that it shows.

    python docs/make_library.py             (figures need the `plot` extra; the page does not)

frontends/library/*.weft --what `weft explain` knows--> entries --elaborated--> shapes --> the page
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources, util
from itertools import combinations, permutations
from math import prod
from pathlib import Path

from make_figures import CAPTIONS, SCHEDULES, VALLEY, write

from weft.cli.explain import Explained, explain
from weft.compiler.errors import CompileError, Source
from weft.compiler.types import F32, I64, TensorType, static_shape
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.elaborate import elaborate_function
from weft.frontends.dsl.modules import library

FOLDER = Path(__file__).parent
PAGE = FOLDER / "library.md"
FIGURES = FOLDER / "figures"

# The files in the order of a reader; one that is not here comes last, under its own name.
SECTIONS = {
    "layers": "Layers",
    "linear": "Dense layers of other texts",
    "convolutions": "Convolutions",
    "pooling": "Pooling",
    "resizing": "Resizing",
    "axes": "Padding and windows",
    "activations": "Activations",
    "normalisations": "Normalisations",
    "weights": "Normalised weights",
    "noise": "Dropout and noise",
    "blocks": "Blocks",
    "recurrent": "Recurrent layers",
    "attention": "Attention and transformers",
    "losses": "Losses",
    "information": "Entropy and divergence",
    "margins": "Margins and distances",
    "sequences": "Losses of sequences",
    "metrics": "Metrics",
    "regularisers": "Regularisers",
    "initialisers": "Initial values",
    "optimisers": "Optimisers",
    "optimisers_adam": "Optimisers: the Adam family",
    "optimisers_layerwise": "Optimisers that see a whole parameter",
    "optimisers_newton": "Optimisers by curvature",
    "optimisers_outer": "Optimisers around another",
    "rules": "Rules of a step",
    "schedules": "Schedules",
    "boxes": "Boxes in pictures",
    "preparation": "Preparation of data",
    "augmentation": "Augmentation",
    "maths": "Maths",
}

# What entries are made of, and few specs call: a line each, below the entries of their file.
PARTS = {
    "after", "as_distribution", "as_list", "as_matrix", "as_steps", "best_of_rest",
    "binary_target", "both_sides", "cell_weights", "channel_windows", "channels_seen",
    "ctc_step", "either_way", "for_each_axis", "forget_gate", "given", "goes_on", "gru_paper_step",
    "gru_paper_step_within", "gru_step", "gru_step_within", "hats", "head_mask",
    "log_sum", "lstm_step",
    "lstm_step_within", "near_centre", "normal_constant", "positives", "principal_axes",
    "principal_axis", "probability_of_keeping", "ratio", "rise", "rnn_step", "rnn_step_within",
    "row_products", "scaled_channels", "scaled_sizes", "sides_of_transposed", "steps_of",
    "stretch_shared", "triangle", "turned", "unit_lengths", "unit_matrix", "unit_scale",
    "unnamed", "wave", "with_blanks", "wrong_by", "x_log_y",
}  # fmt: skip

PREAMBLE = """\
<!-- Written by docs/make_library.py from frontends/library/*.weft: change those, and run it. -->

# The library

Every name that a spec can use without an import: its equation, its arguments and their defaults,
what goes in and comes out, and where it is from. All of it is written in Weft: the source that
runs stands at the head of an entry, or unfolds at its end, and `weft explain NAME` shows the same
text. The primitives that it is written in are the
[built-in functions](language.md#built-in-functions).

- **Shapes** are those with the default settings. `[B, C, ...S]` is a batch, channels, and any
  number of further axes; `[]` is a single number. An initial value has the shape of the parameter
  that it fills, an optimiser gives `theta` back in its shape, a schedule gives one number for each
  step.
- **Figures** show an activation (blue) and its derivative (orange), or the rate that a schedule
  gives over the progress of a training of 200 steps in 10 epochs, as Weft computes them.
- **Where texts disagree**, each variant has a name of its own, and says what it differs in."""


# What stands before the entries of a section, behind the comment of its file.
BEFORE = {
    "optimisers": f"""\
![six ways down a valley: by turns from wall to wall, past the end and back, or straight]\
(figures/{VALLEY}.svg)

The first 40 steps of six optimisers from (0, 0) to the minimum of two weights, (7, 2), in
[{VALLEY}.weft](../examples/{VALLEY}.weft).

What of the gradients so far they make use of:

| Optimiser | First moment | Second moment | which fades | Corrected at the start |
| --- | --- | --- | --- | --- |
| [`sgd`](#sgd) | | | | |
| [`momentum`](#momentum) | yes | | | |
| [`nesterov`](#nesterov) | yes | | | |
| [`adagrad`](#adagrad) | | yes | | |
| [`rmsprop`](#rmsprop) | | yes | yes | |
| [`adam_uncorrected`](#adam_uncorrected) | yes | yes | yes | |
| [`adam`](#adam) | yes | yes | yes | yes |"""
}


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    if util.find_spec("matplotlib") is None:
        print("no figures: they need matplotlib, of the `plot` extra")
        return
    write(FIGURES, figures())


# -- the page --------------------------------------------------------------------------------------


def page() -> str:
    """The whole text of docs/library.md."""
    files = by_file()
    known = [stem for stem in SECTIONS if stem in files]
    order = [*known, *(stem for stem in files if stem not in SECTIONS)]
    contents, sections = [], []
    for stem in order:
        title = SECTIONS.get(stem, stem.replace("_", " ").capitalize())
        entries = [e for e in files[stem] if e.name not in PARTS]
        names = " · ".join(f"[{escaped(e.name)}](#{e.name})" for e in entries)
        contents.append(f"- [{title}](#{anchor(title)}): {names}")
        sections.append(section(stem, title, files[stem]))
    return "\n\n".join([PREAMBLE, "\n".join(contents), *sections]) + "\n"


def by_file() -> dict[str, list[Explained]]:
    """What the library declares, by the file that does."""
    files: dict[str, list[Explained]] = {}
    for name in library().names():
        found = explain(name, None)
        files.setdefault(Path(found.file or "").stem, []).append(found)
    return files


def section(stem: str, title: str, found: Sequence[Explained]) -> str:
    parts = [e for e in found if e.name in PARTS]
    blocks = [f"## {title}", prose(header(stem)), BEFORE.get(stem, "")]
    blocks += [entry(e) for e in found if e.name not in PARTS]
    if parts:
        rows = [f"| `{call(e)}` | {escaped(sentence(e))} |" for e in parts]
        table = "\n".join(["| What these are made of | |", "| --- | --- |", *rows])
        blocks.append(table)
    blocks.append(f"Source: [`{stem}.weft`](../frontends/library/{stem}.weft)")
    return "\n\n".join(block for block in blocks if block)


def entry(found: Explained) -> str:
    """Signature and shapes, comment, figure, and the source: folded where it is long."""
    source = f"```weft\n{found.source}\n```"
    short = "\n" not in found.source
    head = "" if short else f"`{call(found)}`"
    if found.kind in ("fn", "layer"):
        head += f"{' — ' * bool(head)}{shapes(found.name)}"
    blocks = [f"### {found.name}", head, prose(found.doc)]
    figure = figure_of(found)
    if figure:
        blocks += [f"![{figure_text(found)}]({figure})", caption(found)]
    folded = f"<details><summary>As it runs</summary>\n\n{source}\n\n</details>"
    blocks.insert(1 if short else len(blocks), source if short else folded)
    return "\n\n".join(block for block in blocks if block)


def figure_of(found: Explained) -> str | None:
    """The figure of an activation or a schedule, as the page links it."""
    if found.name in PARTS:
        return None
    if found.file == "library/activations.weft" or found.kind == "schedule":
        return f"figures/{found.name}.svg"
    return None


def figure_text(found: Explained) -> str:
    """What a reader who can't see the figure is told."""
    curve = "its rate over a training" if found.kind == "schedule" else "value and derivative"
    return f"{found.name}: {curve}"


def caption(found: Explained) -> str:
    """The call that the figure of a schedule shows, and for an activation what it is given."""
    if found.kind != "schedule":
        return escaped(CAPTIONS.get(found.name, ""))
    if found.name not in SCHEDULES:
        raise LookupError(f"docs/make_figures.py: SCHEDULES says how `{found.name}` is called")
    return f"`{SCHEDULES[found.name]}`"


def figures() -> list[str]:
    """The names of all that have a figure."""
    return [VALLEY, *(e.name for found in by_file().values() for e in found if figure_of(e))]


def call(found: Explained) -> str:
    """The signature without its keyword; for a value, the value."""
    text = found.source if found.kind == "let" else found.signature
    return text.removeprefix(f"{found.kind} ")


def sentence(found: Explained) -> str:
    """The comment up to its first full stop, without the call that it opens with."""
    text = " ".join(found.doc.split("\n\n")[0].split())
    text = re.sub(rf"^{found.name}(\([^)]*\))?(: | = )", "", text)
    end = text.find(". ")
    return text if end < 0 else text[:end]


def header(stem: str) -> str:
    """The comment that a file of the library opens with."""
    lines = library_text(stem).splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:end])


def library_text(stem: str) -> str:
    file = resources.files("weft.frontends.library").joinpath(f"{stem}.weft")
    return file.read_text(encoding="utf-8")


def prose(comment: str) -> str:
    """A comment as Markdown: each paragraph a line, what is indented a block as it stands."""
    blocks: list[tuple[bool, list[str]]] = []
    for line in comment.splitlines():
        code = line.startswith("  ") or (not line and bool(blocks) and blocks[-1][0])
        if not blocks or blocks[-1][0] != code or (not line and not code):
            blocks.append((code, []))
        blocks[-1][1].append(line)
    written = []
    for code, lines in blocks:
        text = "\n".join(lines).strip("\n")
        if code:
            written.append(f"```text\n{text}\n```")
        elif text:
            written.append(escaped(" ".join(text.split())))
    return "\n\n".join(written)


def escaped(text: str) -> str:
    """Text of a comment as Markdown that reads the same; what is in backticks stays."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*_<|\\])", r"\\\1", p) for p in pieces)


def anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")


# -- shapes ----------------------------------------------------------------------------------------

# The sizes that stand for the names of signatures while shapes are found.
SIZES = {
    "B": 7, "C": 64, "D": 124, "E": 34, "G": 92, "H": 48, "I": 14, "J": 21, "K": 26, "M": 17,
    "N": 38, "O": 19, "P": 23, "R": 15, "S": 11, "T": 9, "V": 28, "W": 80,
}  # fmt: skip
SPREAD = {"B": (7, 5), "S": (44, 76), "P": (22, 38), "I": (14, 6)}
INTS = {
    "heads": 2, "units": 58, "channels": 96, "entries": 106, "count": 3, "n": 31, "sizes": 36,
    "keep": 13, "size": 8,
}  # fmt: skip
CHANNELS = str(INTS["channels"])

# How an entry is called where its signature does not say it all: types of tensors, which may use
# the names above, and expressions of the language.
ANY = "float[...S]"
CALLS: dict[str, dict[str, str]] = {
    "adaptive_pool": {"reduce": "mean"},
    "bce": {"target": ANY},
    "bce_probabilities": {"target": ANY},
    "binary_accuracy": {"target": ANY},
    "binary_focal": {"target": ANY},
    "cross_entropy": {"target": "class[C]"},
    "cross_entropy_smooth": {"labels": "class[C]"},
    "cutmix": {"y": "class[C]"},
    "dense_connection": {"inner": "conv", "settings": f"[{CHANNELS}]"},
    "dropout_pre_activation": {"activation": "relu"},
    "f1": {"target": ANY},
    "inverse_power": {"a": "float[N, N]", "p": "2"},
    "kl_of_bernoulli": {"q": ANY, "p": ANY},
    "lengths": {"v": "float[I, O]", "over": "0"},
    "mixup": {"y": "class[C]"},
    "moments": {"x": "float[B, C]", "over": "0"},
    "monte_carlo": {"f": "relu"},
    "monte_carlo_samples": {"f": "relu"},
    "p_norm": {"p": "2"},
    "pixel_centres": {"h": "22", "w": "38"},
    "precision": {"target": ANY},
    "recall": {"target": ANY},
    "residual": {"inner": "relu"},
    "residual_projected": {
        "x": "float[B, C, ...S]",
        "inner": "conv",
        "settings": f"[{CHANNELS}]",
    },
    "shortcut": {"like": f"[{CHANNELS}, 22, 38]"},
    "smooth_labels": {"y": "class[C]"},
    "snapshot": {"at": "1"},
    "swa": {"start": "0", "every": "1"},
    "variance": {"x": "float[B, C]", "over": "0"},
    "vote": {"f": "relu", "changes": "[mirrored]"},
    "weight_norm": {"v": "float[I, O]", "g": "float[O]", "over": "0"},
}


@dataclass(frozen=True)
class Argument:
    """One argument of the call that shows an entry's shapes; `type` where it is a tensor."""

    name: str
    text: str
    type: TensorType | None = None
    shape: str = ""


def shapes(name: str) -> str:
    """`[B, I]` → `[B, units]`: what a function or layer takes and gives, found by calling it."""
    found = library().find(name)
    assert found is not None
    declaration = found[1]
    assert isinstance(declaration, s.FnDecl | s.LayerDecl)
    given = [a for p in declaration.parameters for a in _argument(name, p, declaration)]
    tensors = [(a, a.type) for a in given if a.type]
    settings = [a for a in given if not a.type]
    source = Source(f"{name}.weft", _caller(declaration, [a for a, _ in tensors], settings))
    try:
        graph = elaborate_function(source, "f", [type for _, type in tensors])
    except CompileError as error:
        raise LookupError(f"docs/make_library.py: CALLS says how `{name}` is called") from error
    names, spread = dict[str, int](), dict[str, Sizes]()
    for argument, _ in tensors:
        for dim in re.findall(r"[A-Z]\w*", argument.shape):
            if f"...{dim}" in argument.shape:
                spread[dim] = SPREAD[dim]
            else:
                names[dim] = SIZES[dim]
    names |= {a.name: int(a.text) for a in settings if a.text.isdecimal()}
    for p in declaration.parameters:
        if isinstance(p.default, s.Number) and isinstance(p.default.value, int):
            names.setdefault(p.name, p.default.value)
    names |= {"channels": INTS["channels"]} if CHANNELS in source.text else {}
    names.setdefault("classes", SIZES["C"])
    gives = [_named(static_shape(node.type.shape), names, spread) for node in graph.outputs]
    takes = [f"`{argument.shape}`" for argument, _ in tensors]
    return f"{', '.join(takes) or 'numbers'} → {', '.join(f'`{g}`' for g in gives)}"


def _caller(
    declaration: s.FnDecl | s.LayerDecl, tensors: Sequence[Argument], settings: Sequence[Argument]
) -> str:
    """A source whose `f` makes the call."""
    head = ", ".join(a.text for a in tensors)
    named = [f"{a.name} = {a.text}" for a in settings]
    if isinstance(declaration, s.LayerDecl):
        passed = ", ".join(a.name for a in tensors)
        return f"model net = {declaration.name}({', '.join(named)})\nfn f({head}) = net({passed})"
    passed = ", ".join([*(f"{a.name} = {a.name}" for a in tensors), *named])
    return f"fn f({head}) = {declaration.name}({passed})"


def _argument(name: str, p: s.Parameter, declaration: s.Declaration) -> Iterator[Argument]:
    """What the call gives for a parameter: nothing where the default will do."""
    told = CALLS.get(name, {}).get(p.name)
    written = _source(p.type) if p.type else ""
    if told is not None and not re.fullmatch(r"(float|int|class)\[.*\]", told):
        yield Argument(p.name, told)
    elif told is not None or (p.type and p.type.dims is not None):
        yield _tensor(p.name, told or written, declaration)
    elif p.default is not None:
        return
    elif written == "int" or p.name in INTS:
        yield Argument(p.name, str(INTS.get(p.name, 2)))
    elif written == "float":
        yield Argument(p.name, "0.5")
    elif not written:
        yield _tensor(p.name, ANY, declaration)
    else:
        raise LookupError(f"docs/make_library.py: CALLS says what `{name}` takes as `{p.name}`")


def _tensor(name: str, written: str, declaration: s.Declaration) -> Argument:
    base, _, inside = written.partition("[")
    if base == "class":  # a label for each row of what has the classes
        several = "...B" in _source(declaration)
        type = TensorType(I64, SPREAD["B"] if several else (SIZES["B"],))
        shape = "[...B]" if several else "[B]"
        return Argument(name, f"{name}: class[{SIZES['C']}]", type, shape)
    dims: list[int] = []
    for dim in filter(None, (d.strip() for d in inside.rstrip("]").split(","))):
        if dim.startswith("..."):
            dims += SPREAD[dim[3:]]
        else:
            dims.append(int(dim) if dim.isdecimal() else SIZES[dim])
    kind = {"float": F32, "int": I64}[base]
    return Argument(name, name, TensorType(kind, tuple(dims)), f"[{inside}")


def _source(node: s.Node) -> str:
    return node.span.source.text[node.span.start : node.span.end]


Sizes = tuple[int, ...]


def _named(shape: Sizes, names: dict[str, int], spread: dict[str, Sizes]) -> str:
    """A shape in the names of the arguments: `[B, 4 C, ...S / 2]`."""
    written: list[str] = []
    while shape:
        name, taken = _several(shape, spread)
        written.append(name or _one(shape[0], names, spread))
        shape = shape[taken or 1 :]
    return f"[{', '.join(written)}]"


def _several(shape: Sizes, spread: dict[str, Sizes]) -> tuple[str, int]:
    """The axes that a `...S` stands for at the start of a shape, and how many they are."""
    for change in _CHANGES:
        for name, sizes in spread.items():
            start = shape[: len(sizes)]
            if len(start) == len(sizes) and (text := change(f"{name}", sizes, start)):
                return f"...{text}", len(sizes)
    return "", 0


def _one(size: int, names: dict[str, int], spread: dict[str, Sizes]) -> str:
    """One size: a name, a multiple, part or sum of names, or itself."""
    parts = {f"{n}{i}": v for n, sizes in spread.items() for i, v in enumerate(sizes, 1)}
    known = {**names, **parts}
    for change in _CHANGES[:-1]:
        for name, value in known.items():
            if text := change(name, (value,), (size,)):
                return text
    for count in (2, 3):
        for chosen in combinations(known, count):
            values = [known[name] for name in chosen]
            if prod(values) == size:
                return " ".join(chosen)
            if sum(values) == size:
                return " + ".join(chosen)
    for a, b in permutations(known, 2):
        if known[a] == size * known[b]:
            return f"{a} / {b}"
        if known[a] + 1 == size:
            return f"{a} + 1"
    for a, b, c in permutations(known, 3):
        if a < b and known[a] * known[b] == size * known[c] ** 2:
            return f"{a} {b} / {c}^2"
    return str(size)


def _same(name: str, sizes: Sizes, found: Sizes) -> str | None:
    return name if sizes == found else None


def _multiple(name: str, sizes: Sizes, found: Sizes) -> str | None:
    for k in (2, 4):
        if tuple(k * n for n in sizes) == found:
            return f"{k} {name}"
        if tuple(k * n for n in found) == sizes:
            return f"{name} / {k}"
    return None


def _longer(name: str, sizes: Sizes, found: Sizes) -> str | None:
    by = {f - n for f, n in zip(found, sizes, strict=True)}
    if len(by) == 1 and abs(n := by.pop()) <= 4:
        return f"{name} {'+' if n > 0 else '-'} {abs(n)}"
    return None


_CHANGES = (_same, _multiple, _longer)


if __name__ == "__main__":
    main()
