"""Names of the printed Python: of functions, of constants, and of variables that resemble a spec's.

All of a source shares its names. What they stand for goes to `space`, the globals of the source.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable
from typing import Any

import numpy as np


class Names:
    """The names of one function of the source; `of_turn` makes those of a function inside of it."""

    def __init__(self, space: dict[str, Any], words: tuple[str, ...], reserved: frozenset[str]):
        """`words` are used by the source itself; `reserved` are kept for functions."""
        self.space = space
        self.reserved = reserved
        self.constants: list[str] = []  # what each constant is, to read
        self.clashes: set[str] = set()  # functions whose names a variable took first
        self._taken = {*words, *space, *reserved}
        self._claimed = {*space}  # stand for one thing everywhere
        self._counts: dict[str, int] = {}  # of names made of each hint
        self._known: dict[Any, str] = {}

    def of_turn(self) -> Names:
        """Names of a function inside: none is used twice, and what is known here isn't there."""
        inner = Names(self.space, (), self.reserved)
        inner.constants, inner.clashes = self.constants, self.clashes
        inner._taken, inner._claimed, inner._counts = self._taken, self._claimed, self._counts
        return inner

    def claim(self, name: str, thing: Any) -> str:
        """Let a name stand for one thing in all of the source."""
        if name in self._taken and name not in self.reserved and name not in self._claimed:
            self.clashes.add(name)
        self._taken.add(name)
        self._claimed.add(name)
        self.space[name] = thing
        return name

    def fresh(self, hint: str) -> str:
        """A name that nothing else has."""
        name, count = hint, self._counts.get(hint, 0)
        while name in self._taken or keyword.iskeyword(name):
            name, count = f"{hint}_{count}", count + 1
        self._counts[hint] = count
        self._taken.add(name)
        return name

    def once(self, key: Any, make: Callable[[], str]) -> str:
        """The name of a thing, made when first asked for."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def of(self, key: Any, hint: str) -> str:
        """The name of a thing, after the hint."""
        return self.once(key, lambda: self.fresh(hint))

    def constant(self, value: Any, hint: str) -> str:
        """A name for a constant; equal numbers share one."""

        def make() -> str:
            name = self.fresh(hint)
            self.space[name] = value
            return name

        def noted() -> str:
            name = make()
            shown = repr(value.item()) if value.size == 1 else f"shape {value.shape}"
            self.constants.append(f"{name} = {value.dtype} {shown}")
            return name

        if not isinstance(value, np.ndarray | np.generic):
            return make()
        key = (type(value).__name__, str(value.dtype), value.shape, value.tobytes())
        return self.once(key, noted)


def identifier(name: str) -> str:
    """A Python identifier that resembles a name of the specification."""
    text = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    return text if text[:1].isalpha() else f"v_{text}"
