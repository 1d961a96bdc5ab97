"""The training steps that are measured, and the numbers that they all start from.

A workload is a row here, a spec in benchmarks/specs, and a net of the spec's name in
torch_models.py and jax_models.py. Worker processes read this file too, so it imports no framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

SPECS = Path(__file__).parents[1] / "specs"
BATCHES = 4  # different ones, which come again and again

# How far losses of the frameworks may be apart, relative to each, by what products may round to.
TOLERANCES: Mapping[str, float] = {"f32": 1e-3, "tf32": 1e-2}

Arrays = dict[str, np.ndarray]
Settings = Mapping[str, int | str]  # of a spec


@dataclass(frozen=True)
class Workload:
    """What readers call it, how it learns, and how long Weft may take over the best peer.

    Optimiser and rate are those of the spec, which has the workload's name unless `spec` is another
    one. `settings` are what the spec has otherwise by itself.
    """

    title: str
    batch: int
    optimiser: str
    rate: float
    goal: float
    spec: str = ""
    settings: Settings = field(default_factory=dict)

    @property
    def given(self) -> Settings:
        """All settings, with the size of a batch."""
        return {"size": self.batch, **self.settings}


@dataclass(frozen=True)
class Suite:
    """What is measured on one kind of device, and what Weft is to reach there, if anything."""

    device: str  # where peers run: `cpu` or `cuda`
    workloads: Mapping[str, Workload]
    precision: str = "f32"  # of the specs
    mean: float | None = None  # geometric mean of the steps over the best peer's
    memory: float | None = None  # over PyTorch's
    cold: float | None = None  # over torch.compile's
    warm: float | None = None  # seconds

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.precision]

    def spec(self, name: str) -> str:
        return self.workloads[name].spec or name


_ON_CPU: Mapping[str, Workload] = {
    "perceptron": Workload("perceptron 64-64-10", 32, "adam", 1e-3, 0.2),
    "deep_perceptron": Workload("perceptron 784-512-512-10", 128, "adamw", 1e-3, 0.8),
    "lenet": Workload("LeNet-5, 28 x 28", 64, "momentum", 0.01, 0.9),
    "resnet": Workload("ResNet-20, 3 x 32 x 32", 64, "momentum", 1e-3, 1.0),
    "vgg": Workload("VGG-9, 3 x 32 x 32", 64, "momentum", 1e-3, 1.0),
    "unet": Workload("U-Net, 64 x 64", 8, "adam", 1e-3, 0.9),
    "vae": Workload("VAE 784-400-20", 128, "adam", 1e-3, 0.8),
    "lstm": Workload("LSTM of 128, 64 steps", 32, "adam", 1e-3, 0.8),
    "transformer": Workload("transformer, 4 x 128, 128 tokens", 16, "adamw", 1e-3, 0.8),
    "vit": Workload("ViT-Tiny, 3 x 32 x 32", 32, "adamw", 1e-3, 0.8),
}

# A GPU is done with these before a host has launched their kernels one by one.
_SMALL = ("perceptron", "deep_perceptron", "lenet", "resnet", "vae", "lstm", "transformer")
_SMALL_GOAL, _LARGE_GOAL = 0.5, 1.2


def _large(title: str, spec: str, batch: int, **settings: int) -> Workload:
    row = replace(_ON_CPU[spec], title=title, batch=batch, goal=_LARGE_GOAL)
    return replace(row, spec=spec, settings=settings)


_ON_GPU: Mapping[str, Workload] = {
    **{name: replace(_ON_CPU[name], goal=_SMALL_GOAL) for name in _SMALL},
    "resnet_256": _large("ResNet-20, batches of 256", "resnet", 256),
    "resnet_1024": _large("ResNet-20, batches of 1,024", "resnet", 1024),
    "lstm_256": _large("LSTM of 512, 256 steps", "lstm", 64, tokens=256, units=512),
    "transformer_768": _large(
        "transformer, 12 x 768, 1,024 tokens",
        "transformer",
        8,
        tokens=1024,
        units=768,
        depth=12,
        heads=12,
    ),
    "vit_small": _large(
        "ViT-S/16, 3 x 224 x 224", "vit", 64, side=224, patch=16, width=384, heads=6
    ),
}

SUITES: Mapping[str, Suite] = {
    "cpu": Suite("cpu", _ON_CPU, mean=0.6, memory=0.7, cold=0.5, warm=0.5),
    "cuda": Suite("cuda", _ON_GPU),
}


def suite_for(device: str, precision: str = "f32") -> Suite:
    """The suite of a device, with its specs in a precision."""
    suite = SUITES[device]
    if precision == suite.precision:
        return suite
    rows = {
        name: replace(row, settings={**row.settings, "precision": precision})
        for name, row in suite.workloads.items()
    }
    return replace(suite, workloads=rows, precision=precision)


@dataclass(frozen=True)
class Start:
    """The parameters by Weft's names and in its order, and the batches."""

    parameters: Arrays
    batches: list[Arrays]

    def save(self, file: Path) -> None:
        flat = {f"parameters/{name}": value for name, value in self.parameters.items()}
        for i, batch in enumerate(self.batches):
            flat |= {f"{i}/{name}": value for name, value in batch.items()}
        np.savez(file, allow_pickle=False, **flat)

    @staticmethod
    def read(file: Path) -> Start:
        groups: dict[str, Arrays] = {}
        with np.load(file) as archive:
            for key in archive:
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = archive[key]
        parameters = groups.pop("parameters")
        return Start(parameters, [groups[str(i)] for i in range(len(groups))])


def prepared(spec: str, settings: Settings) -> Start:
    """What Weft draws for the spec, and batches of random numbers of the fields' types.

    Floats are between 0 and 1 as pixels are; a field called `noise` is normal.
    """
    import weft
    from weft.compiler.types import static_shape
    from weft.runtime.backends import backend_named
    from weft.runtime.session import session_for

    loaded = weft.load(SPECS / f"{spec}.weft", **settings).loaded
    session = session_for(loaded, backend_named("numpy"))
    session.initialise(0)
    states = loaded.program.states
    parameters = {
        n: value.copy() for n, value in session.tensors().items() if states[n].role == "parameter"
    }
    rng = np.random.default_rng(0)
    data, batch = loaded.experiment.data, loaded.experiment.settings.batch
    assert data is not None

    def drawn(field: str) -> np.ndarray:
        declared = next(f for f in data.fields if f.name == field)
        shape = batch, *static_shape(declared.type.shape)
        if declared.classes is not None:
            return rng.integers(0, declared.classes, shape)
        values = rng.standard_normal(shape) if field == "noise" else rng.random(shape)
        return values.astype(declared.type.dtype.numpy)

    fields = [f.name for f in data.fields]
    return Start(parameters, [{f: drawn(f) for f in fields} for _ in range(BATCHES)])


def arranged(parameters: Mapping[str, np.ndarray]) -> Arrays:
    """The parameters with each attention's projections as two dense layers, `qkv` and `out`.

    So its users write them in PyTorch and in JAX: one product gives queries, keys and values.
    """
    found: Arrays = {}
    for name, value in parameters.items():
        path, _, last = name.rpartition(".")
        kind, _, part = last.partition("_")
        if kind not in ("w", "b") or part not in ("q", "k", "v", "o"):
            found[name] = value
        elif part == "q":
            for layer, parts in {"qkv": "qkv", "out": "o"}.items():
                for k in ("w", "b"):
                    arrays = [parameters[f"{path}.{k}_{p}"] for p in parts]
                    found[f"{path}.{layer}.{k}"] = np.concatenate(arrays, axis=-1)
    return found
