"""From a spec to what can run: elaborated, with its data opened and checked, and named by a hash.

source, base, overrides --elaborate (opening data)--> Experiment --build--> Program, fingerprint
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from weft.compiler.errors import (
    CompileError,
    Diagnostic,
    RunError,
    Source,
    did_you_mean,
    one_of,
)
from weft.compiler.graph import Graph
from weft.compiler.passes.decompose import inline_calls
from weft.compiler.program import DataSpec, Experiment, Program
from weft.compiler.statistics import split as split_statistics
from weft.compiler.text import print_graph
from weft.compiler.training import build
from weft.compiler.types import symbol
from weft.frontends.dsl.data import DataProvider
from weft.frontends.dsl.diagnostics import and_list
from weft.frontends.dsl.elaborate import elaborate
from weft.frontends.dsl.parser import read_source
from weft.runtime.data.columns import Array, Columns
from weft.runtime.data.outside import Given
from weft.runtime.data.splits import Part
from weft.runtime.fields import Fields
from weft.runtime.provider import OpenData, Opener

_GRAPHS = ("init", "train_step", "eval_step", "predict", "epoch_end")


@dataclass(frozen=True, eq=False)
class Loaded:
    """A spec that compiles. `base` is the folder that its imports are seen from.

    `opener` has its data, or gets it when it is first needed. `fitted` is what its fields once took
    from the examples that train, for a spec whose run has begun.
    """

    source: Source
    base: Path
    overrides: Mapping[str, Any]
    experiment: Experiment
    program: Program
    opener: Opener
    fitted: Mapping[str, Array] | None = None

    @cached_property
    def fields(self) -> Fields:
        """The prepared data. Raises CompileError for labels out of range."""
        return Fields(self._spec, self.columns, self.parts["train"], self.fitted)

    @property
    def preparation(self) -> tuple[Graph, Mapping[str, Array]]:
        """The graph from columns to fields, and the values of what it takes from all examples.

        Those of a run are known; else the data are opened for them.
        """
        found = split_statistics(inline_calls(self._spec.prepare, frozenset()), symbol("batch"))
        known = self.fitted or {}
        if not known.keys() >= set(found.names):
            known = self.fields.fitted
        return found.prepare, {name: known[name] for name in found.names}

    @property
    def columns(self) -> Columns:
        """The columns of the data. Raises CompileError for data without a source, if not given."""
        if self.data.columns is None:
            raise _not_given(self._spec)
        return self.data.columns

    @property
    def at_hand(self) -> bool:
        """Whether the examples are there to be read."""
        return any(opened.columns is not None for opened in self.opener.data.values())

    @property
    def parts(self) -> Mapping[str, Part]:
        """The rows of each part of the data."""
        return self.data.parts

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """Of the spec, and of data in memory."""
        return self.experiment.warnings + (self.fields.warnings if self.at_hand else ())

    @cached_property
    def fingerprint(self) -> str:
        """128 bits in hexadecimal of what the spec means; see `fingerprint_of`."""
        return fingerprint_of(self.experiment, self.program)

    @property
    def _spec(self) -> DataSpec:
        if self.experiment.data is None:
            raise RunError("the spec trains on no data")
        return self.experiment.data

    @cached_property
    def data(self) -> OpenData:
        """The opened data. Raises RunError when it isn't where the spec says."""
        spec, opener = self._spec, self.opener
        if spec.source is None:
            opener.given(spec.name, spec.columns, {k: int(n) for k, n in spec.split.items()})
        else:
            opener.open(spec.name, spec.source, spec.arguments, spec.options, spec.split)
        return opener.data[spec.name]


def _not_given(spec: DataSpec) -> CompileError:
    """The error for data without a source where examples are to be read."""
    declared = {f.name: f for f in spec.fields}
    wanted = []
    for name, type in spec.columns.items():
        classes = declared[name].classes
        sizes = [str(size) for size in (*([classes] if classes else []), *type.shape)]
        shape = f"[{', '.join(sizes)}]" if sizes else ""
        wanted.append(f"{name}: {'class' if classes else type.dtype}{shape}")
    return CompileError(
        f"`{spec.name}` has no source, and no arrays are given for it",
        spec.span,
        expected=f"{and_list(wanted)} of {sum(spec.split.values()):,} examples",
        hint=f"`--data {spec.name}=FILE.npz` or `--data {spec.name}=FOLDER` (of `.npy` files); "
        f'in Python `data={{"{spec.name}": ...}}`',
    )


def read(path_or_text: str | Path) -> tuple[Source, Path]:
    """A source and the folder that its paths are seen from: the file's, or for text this one.

    A `str` is a path when it is one line that ends in `.weft` or names a file or a folder.
    """
    if isinstance(path_or_text, str) and not _is_path(path_or_text):
        return Source("spec", path_or_text), Path()
    path = Path(path_or_text)
    return read_source(path), path.parent


def _is_path(text: str) -> bool:
    if "\n" in text or len(text) > 1000:
        return False
    return text.endswith(".weft") or ("{" not in text and text != "" and Path(text).exists())


def load_spec(
    source: Source,
    base: Path,
    overrides: Mapping[str, Any] | None = None,
    outside: Mapping[str, Given] | None = None,
) -> Loaded:
    """Elaborate a spec, open its data and check its labels. Raises CompileError.

    `outside` gives the arrays of data without a source, by the data's name.
    """
    opener = Opener(base, outside or {})
    loaded = assemble(source, base, overrides or {}, opener, opener)
    if loaded.at_hand:
        _ = loaded.fields  # checks the labels
    return loaded


def assemble(
    source: Source,
    base: Path,
    overrides: Mapping[str, Any],
    provider: DataProvider,
    opener: Opener,
    name: str | None = None,
) -> Loaded:
    """A spec elaborated with what `provider` tells of its data; `name` renames the experiment."""
    try:
        experiment = elaborate(source, provider, base, overrides)
    except RecursionError:
        raise CompileError(f"`{source.name}` is nested too deeply") from None
    if name is not None:
        experiment = replace(experiment, name=name)
    _check_outside(opener.outside, experiment.data)
    return Loaded(source, base, dict(overrides), experiment, build(experiment), opener)


def _check_outside(outside: Mapping[str, Given], spec: DataSpec | None) -> None:
    """What is given from outside is for the data that the spec trains on, which has no source."""
    asked = [spec.name] if spec is not None and spec.source is None else []
    for name in outside:
        if spec is not None and name == spec.name and not asked:
            raise RunError(
                f"`{name}` has a source of its own",
                hint=f"to give the arrays of `{name}` from outside, leave `source` out of the spec",
            )
        if name not in asked:
            raise RunError(
                f"the spec asks for no data `{name}`",
                expected=one_of(asked) if asked else None,
                found=None if asked else "a spec whose data need nothing from outside",
                hint=did_you_mean(name, asked),
            )


def fingerprint_of(experiment: Experiment, program: Program) -> str:
    """The hash of the graphs, the settings and the data's description.

    Names of files, comments and white space are not in it; whatever changes a number is.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in _GRAPHS:
        digest.update(print_graph(getattr(program, name)).encode())
    digest.update(_json(asdict(experiment.settings)))
    data = experiment.data
    if data is not None:
        digest.update(print_graph(data.prepare).encode())
        fields = [[f.name, str(f.type), f.classes] for f in data.fields]
        described = [data.name, data.source, list(data.arguments), dict(data.options), fields]
        digest.update(_json([*described, dict(data.split)]))
    return digest.hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()
