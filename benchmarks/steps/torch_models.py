"""The workloads in PyTorch, as its tutorials write them: `start` gives a training step.

Modules are made in the order of Weft's layers, so that both have their parameters in one order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from shutil import which

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Fields = Mapping[str, Tensor]

# -- perceptrons -----------------------------------------------------------------------------------


def perceptron(*widths: int) -> nn.Sequential:
    """Dense layers of these widths with relu between them."""
    layers: list[nn.Module] = []
    for inputs, units in pairwise(widths):
        layers += [nn.Linear(inputs, units), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Autoencoder(nn.Module):
    """Gives the logits of the pixels, and the code's mean and logarithm of the variance."""

    def __init__(self, pixels: int = 784, hidden: int = 400, code: int = 20) -> None:
        super().__init__()
        self.hidden = nn.Linear(pixels, hidden)
        self.mu = nn.Linear(hidden, code)
        self.log_var = nn.Linear(hidden, code)
        self.decode = perceptron(code, hidden, pixels)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.hidden(x))
        mu, log_var = self.mu(h), self.log_var(h)
        return self.decode(mu + torch.exp(0.5 * log_var) * noise), mu, log_var


# -- pictures --------------------------------------------------------------------------------------


def lenet() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(256, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)),
    )


class Residual(nn.Module):
    """Two normed convolutions; the shortcut skips places and fills channels up with zeros."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.stride, self.added = stride, channels - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.added:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return F.relu(x + y)


def resnet(depth: int = 20) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)]
    layers.append(nn.ReLU())
    inputs = 16
    for channels, stride in [(16, 1), (32, 2), (64, 2)]:
        for block in range(depth // 6):
            layers.append(Residual(inputs, channels, stride if block == 0 else 1))
            inputs = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = 3
    for channels, depth in [(64, 2), (128, 2), (256, 3)]:
        for _ in range(depth):
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels)]
            layers.append(nn.ReLU())
            inputs = channels
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(256 * 16, 256), nn.BatchNorm1d(256), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, 10))


def two_convolutions(inputs: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()),
    )


class Upwards(nn.Module):
    """Twice as many places, joined with the map of the way down, and two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.convolutions = two_convolutions(2 * channels, channels)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        return self.convolutions(torch.cat([beside, self.up(x)], 1))


class UNet(nn.Module):
    def __init__(self, width: int = 32, depth: int = 4, classes: int = 2) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        pairs = zip([1, *widths], widths, strict=False)
        self.down = nn.ModuleList([two_convolutions(*pair) for pair in pairs])
        self.up = nn.ModuleList([Upwards(channels) for channels in widths[-2::-1]])
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.down[0](x)]
        for convolutions in self.down[1:]:
            maps.append(convolutions(F.max_pool2d(maps[-1], 2)))
        x = maps.pop()
        for up in self.up:
            x = up(x, maps.pop())
        return self.last(x)


# -- sequences -------------------------------------------------------------------------------------


class Lstm(nn.Module):
    def __init__(self, symbols: int = 96, width: int = 64, units: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        self.cells = nn.LSTM(width, units, batch_first=True)
        self.last = nn.Linear(units, symbols)
        # PyTorch has two biases, and only their sum matters: one of them stays 0.
        nn.init.zeros_(self.cells.bias_hh_l0.requires_grad_(False))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.cells(self.embedding(x))[0])


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a feed-forward layer, each after its normalisation."""

    def __init__(self, width: int, heads: int, causal: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attention = Attention(width, heads, causal)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Positions(nn.Module):
    def __init__(self, positions: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(positions, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


class Transformer(nn.Module):
    """One table turns characters into vectors, and vectors into logits."""

    def __init__(
        self,
        depth: int = 4,
        units: int = 128,
        heads: int = 4,
        tokens: int = 128,
        symbols: int = 96,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, units)
        self.body = nn.Sequential(
            Positions(tokens, units),
            *(Block(units, heads, causal=True) for _ in range(depth)),
            nn.LayerNorm(units),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.body(self.embedding(x)), self.embedding.weight)


class Patches(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(2).transpose(1, 2)


class ClassToken(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], 1, -1), x], 1)


class Vit(nn.Module):
    def __init__(
        self, depth: int = 12, width: int = 192, heads: int = 3, side: int = 32, patch: int = 4
    ) -> None:
        super().__init__()
        tokens = 1 + (side // patch) ** 2
        self.body = nn.Sequential(
            *(Patches(width, patch), ClassToken(width), Positions(tokens, width)),
            *(Block(width, heads, eps=1e-6) for _ in range(depth)),
            nn.LayerNorm(width, 1e-6),
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[:, 0])


# -- training --------------------------------------------------------------------------------------


def of_classes(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y)


def of_symbols(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x).flatten(0, 1), y.flatten())


def of_code(net: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    logits, mu, log_var = net(x, noise)
    rebuilding = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    divergence = 0.5 * torch.sum(mu**2 + torch.expm1(log_var) - log_var)
    return (rebuilding + divergence) / len(x)


# How each workload's net is made, from the settings of its spec, and what is minimised.
MODELS: Mapping[str, tuple[Callable[..., nn.Module], Callable[..., Tensor]]] = {
    "perceptron": (lambda: perceptron(64, 64, 10), of_classes),
    "deep_perceptron": (lambda depth=2: perceptron(784, *[512] * depth, 10), of_classes),
    "lenet": (lenet, of_classes),
    "resnet": (resnet, of_classes),
    "vgg": (vgg, of_classes),
    "unet": (UNet, of_classes),
    "vae": (Autoencoder, of_code),
    "lstm": (lambda units=128, tokens=64: Lstm(units=units), of_symbols),
    "transformer": (Transformer, of_symbols),
    "vit": (Vit, of_classes),
}

# `fused` updates all parameters in one call.
OPTIMISERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda theta, rate: torch.optim.Adam(theta, rate, fused=True),
    "adamw": lambda theta, rate: torch.optim.AdamW(theta, rate, weight_decay=0.01, fused=True),
    "momentum": lambda theta, rate: torch.optim.SGD(theta, rate, momentum=0.9, fused=True),
}

# Weft's axes in the order of PyTorch's, for parameters with as many.
ORDERS: Mapping[type[nn.Module], tuple[int, ...]] = {
    nn.Linear: (1, 0),
    nn.LSTM: (1, 0),
    nn.ConvTranspose2d: (1, 0, 2, 3),
}


def owned(net: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    """The parameters that are trained, each with the module that holds it."""
    for module in net.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                yield module, parameter


@torch.no_grad()
def take_over(net: nn.Module, values: Sequence[np.ndarray]) -> None:
    """Set the parameters to Weft's, which come in the same order."""
    for (module, parameter), value in zip(owned(net), values, strict=True):
        order = ORDERS.get(type(module), ())
        if len(order) == value.ndim:
            value = value.transpose(order)
        if value.shape != tuple(parameter.shape):
            raise ValueError(f"{type(module).__name__} gets {value.shape}, not {parameter.shape}")
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))


def set_up_cuda(tf32: bool) -> None:
    """Choose the fastest of cuDNN's ways by trying them, as JAX does, and round just when told."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True


def lacking(compiled: bool) -> str | None:
    """What keeps PyTorch from a GPU; None where it can run on one. Its compiler needs others."""
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "PyTorch finds no GPU"
    if compiled and find_spec("triton") is None:
        return "triton not installed (`pip install triton`)"
    if compiled and not any(map(which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
        return "triton finds no C compiler: install gcc, or name one in CC"
    return None


def start(
    name: str,
    settings: Mapping[str, int],
    optimiser: tuple[str, float],
    parameters: Mapping[str, np.ndarray],
    batches: Sequence[Mapping[str, np.ndarray]],
    threads: int = 1,
    compiled: bool = False,
    device: str = "cpu",
    tf32: bool = False,
) -> Callable[[int], Tensor]:
    """A function that trains on a batch, by its number, and gives the loss before the update.

    Batches come from the host's memory, from where a GPU fetches them while it computes.
    """
    torch.set_num_threads(threads)
    if device == "cuda":
        set_up_cuda(tf32)
    make, objective = MODELS[name]
    net = make(**settings).to(device)
    take_over(net, list(parameters.values()))
    tensors: list[Fields] = [{k: torch.from_numpy(a) for k, a in b.items()} for b in batches]
    if device == "cuda":
        tensors = [{k: t.pin_memory() for k, t in fields.items()} for fields in tensors]
    kind, rate = optimiser
    optimizer = OPTIMISERS[kind]([p for _, p in owned(net)], rate)
    if compiled:
        objective = torch.compile(objective)

    def step(i: int) -> Tensor:
        optimizer.zero_grad()
        loss = objective(net, **{k: t.to(device, non_blocking=True) for k, t in tensors[i].items()})
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
