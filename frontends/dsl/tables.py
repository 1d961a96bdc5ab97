"""The LALR tables of grammar.lark: worked out by Lark, kept beside the grammar as text.

Working them out takes a fifth of a second, reading them a few milliseconds, so `tables.txt` is part
of the package. It names the grammar it was made from; for any other, Lark is asked again. After a
change of the grammar:

    python -m weft.frontends.dsl.tables
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path

STARTS = ("file", "expression")

# In a state: a symbol leads to another state (>= 0) or ends a rule (~rule, < 0).
State = dict[str, int]


@dataclass(frozen=True, slots=True)
class Rule:
    """`origin` gets `length` parts; `make` names what builds its value from them.

    `spliced`: the parts go to the rule above as they are.
    """

    origin: str
    make: str
    length: int
    spliced: bool


@dataclass(frozen=True, slots=True)
class Tables:
    """What an LR parser needs.

    Terminals go by their text ("fn", "|>") or kind ("NAME", "$END"), rules by name ("<let>").

    `states[i]` is where text that is to be a `STARTS[i]` begins.
    """

    rules: tuple[Rule, ...]
    states: tuple[State, ...]


def is_rule(symbol: str) -> bool:
    """Is a symbol of a state a rule, not a terminal?"""
    return len(symbol) > 2 and symbol[0] == "<"


def load() -> Tables:
    """The tables of the packaged grammar."""
    folder = files("weft.frontends.dsl")
    grammar = folder.joinpath("grammar.lark").read_text(encoding="utf-8")
    kept = folder.joinpath("tables.txt")
    if kept.is_file():
        text = kept.read_text(encoding="utf-8")
        if text.splitlines()[1:2] == [f"grammar {digest(grammar)}"]:
            return parse(text)
    return build(grammar)


def digest(grammar: str) -> str:
    return blake2b(grammar.encode(), digest_size=16).hexdigest()


def build(grammar: str) -> Tables:
    """Let Lark work out the tables."""
    from lark import Lark
    from lark.lexer import Lexer, PatternStr, Token
    from lark.parsers.lalr_analysis import Shift

    class Unused(Lexer):
        def __init__(self, lexer_conf: object) -> None:
            pass

        def lex(self, lexer_state: object, parser_state: object) -> Iterator[Token]:
            return iter(())

    lark = Lark(
        grammar,
        parser="lalr",
        lexer=Unused,
        start=list(STARTS),
        keep_all_tokens=True,
        maybe_placeholders=False,
    )
    names = {
        terminal.name: terminal.pattern.value
        for terminal in lark.terminals
        if isinstance(terminal.pattern, PatternStr)
    }

    def spell(symbol: str) -> str:
        return f"<{symbol}>" if symbol.islower() else names.get(symbol, symbol)

    ordered = sorted(lark.rules, key=lambda rule: (rule.origin.name, rule.order, str(rule)))
    rules = tuple(
        Rule(
            origin=spell(rule.origin.name),
            make=rule.alias or rule.origin.name,
            length=len(rule.expansion),
            spliced=rule.origin.name.startswith("_")
            or (rule.options.expand1 and not rule.alias and len(rule.expansion) == 1),
        )
        for rule in ordered
    )
    # Lark's own numbers vary from process to process: count states from the start symbols on.
    table = lark.parser.parser._parse_table  # noqa: SLF001
    order = [table.start_states[start] for start in STARTS]
    for state in order:
        for _, (action, target) in sorted(table.states[state].items()):
            if action is Shift and target not in order:
                order.append(target)
    place = {state: number for number, state in enumerate(order)}
    number_of = {rule: number for number, rule in enumerate(ordered)}
    states = tuple(
        {
            spell(symbol): place[target] if action is Shift else ~number_of[target]
            for symbol, (action, target) in sorted(table.states[state].items())
        }
        for state in order
    )
    return Tables(rules, states)


def dump(tables: Tables, grammar: str) -> str:
    """The tables as text: a line a rule, a line a state, the terminals that end a rule as sets."""
    lines = [
        "# The LALR tables of grammar.lark, written by `python -m weft.frontends.dsl.tables`.",
        f"grammar {digest(grammar)}",
    ]
    for rule in tables.rules:
        way = "spliced" if rule.spliced else "whole"
        lines.append(f"rule {rule.origin} {rule.make} {rule.length} {way}")
    sets: dict[tuple[str, ...], int] = {}
    states = []
    for state in tables.states:
        ends: dict[int, list[str]] = {}
        parts = []
        for symbol, target in state.items():
            if target < 0:
                ends.setdefault(~target, []).append(symbol)
            else:
                parts.append(f"{symbol} {target}")
        for rule_number, symbols in ends.items():
            number = sets.setdefault(tuple(symbols), len(sets))
            parts.append(f"~{number} {rule_number}")
        states.append(" ".join(["state", *parts]))
    lines += [" ".join(["set", *symbols]) for symbols in sets]
    return "\n".join(lines + states) + "\n"


def parse(text: str) -> Tables:
    """The inverse of `dump`."""
    rules: list[Rule] = []
    states: list[State] = []
    sets: list[list[str]] = []
    for line in text.splitlines():
        kind, *words = line.split(" ")
        if kind == "rule":
            origin, make, length, way = words
            rules.append(Rule(origin, make, int(length), way == "spliced"))
        elif kind == "set":
            sets.append(words)
        elif kind == "state":
            state: State = {}
            for symbol, number in zip(words[::2], words[1::2], strict=True):
                if len(symbol) > 1 and symbol[0] == "~":
                    state.update(dict.fromkeys(sets[int(symbol[1:])], ~int(number)))
                else:
                    state[symbol] = int(number)
            states.append(state)
    return Tables(tuple(rules), tuple(states))


def main() -> None:
    """Write tables.txt beside the grammar."""
    folder = Path(__file__).parent
    grammar = (folder / "grammar.lark").read_text(encoding="utf-8")
    (folder / "tables.txt").write_text(dump(build(grammar), grammar), encoding="utf-8")


if __name__ == "__main__":
    main()
