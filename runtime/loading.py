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

from weft.compiler.errors import CompileError, Diagnostic, RunError, Source
from weft.compiler.program import DataSpec, Experiment, Program
from weft.compiler.text import print_graph
from weft.compiler.training import build
from weft.frontends.dsl.data import DataProvider
from weft.frontends.dsl.elaborate import elaborate
from weft.frontends.dsl.parser import read_source
from weft.runtime.data.splits import Part
from weft.runtime.fields import Fields
from weft.runtime.provider import OpenData, Opener

_GRAPHS = ("init", "train_step", "eval_step", "predict", "epoch_end")


@dataclass(frozen=True, eq=False)
class Loaded:
    """A spec that compiles. `base` is the folder that its imports are seen from.

    `opener` has its data, or gets it when it is first needed.
    """

    source: Source
    base: Path
    overrides: Mapping[str, Any]
    experiment: Experiment
    program: Program
    opener: Opener

    @cached_property
    def fields(self) -> Fields:
        """The prepared data. Raises CompileError for labels out of range."""
        return Fields(self._spec, self.data.columns)

    @property
    def parts(self) -> Mapping[str, Part]:
        """The rows of each part of the data."""
        return self.data.parts

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """Of the spec, and of data in memory."""
        return self.experiment.warnings + (self.fields.warnings if self.opener.data else ())

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
        spec = self._spec
        self.opener.open(spec.name, spec.source, spec.arguments, spec.options, spec.split)
        return self.opener.data[spec.name]


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


def load_spec(source: Source, base: Path, overrides: Mapping[str, Any] | None = None) -> Loaded:
    """Elaborate a spec, open its data and check its labels. Raises CompileError."""
    opener = Opener(base)
    loaded = assemble(source, base, overrides or {}, opener, opener)
    if loaded.experiment.data is not None:
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
    return Loaded(source, base, dict(overrides), experiment, build(experiment), opener)


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
