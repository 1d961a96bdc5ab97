"""The command line starts fast, shows its help, and ends with documented codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from goldens import Golden
from weft.cli.app import COMMANDS
from weft.cli.output import Table, print_table

EXAMPLES = Path(__file__).parents[2] / "examples"
HEAVY = {"numpy", "networkx", "onnx", "rich", "lark", "safetensors", "weft.compiler.graph"}


def python(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, *arguments], capture_output=True, text=True, check=False, **settings
    )


def modules_after(*arguments: str) -> set[str]:
    """What a command has imported when it is done."""
    code = (
        "import sys\n"
        "from weft.cli.app import app\n"
        f"try: app({list(arguments)!r})\n"
        "except SystemExit: pass\n"
        "print(' '.join(sys.modules))"
    )
    return set(python("-c", code).stdout.splitlines()[-1].split())


def test_help_imports_nothing_heavy() -> None:
    assert not HEAVY & modules_after("--help")


def test_check_imports_only_what_it_needs() -> None:
    """Most of a check's time is imports; `benchmarks/startup.py` measures it."""
    slow = {"networkx", "onnx", "rich", "lark", "safetensors", "sklearn", "matplotlib"}
    assert not slow & modules_after("check", str(EXAMPLES / "digits_mlp.weft"))


@pytest.mark.parametrize(
    "arguments",
    [("check",), ("compile",), ("compile", "--emit", "python"), ("explain", "relu"), ("fmt",)],
    ids=" ".join,
)
def test_what_runs_nothing_imports_no_compiler(arguments: tuple[str, ...]) -> None:
    spec = () if arguments[0] == "explain" else (str(EXAMPLES / "digits_mlp.weft"),)
    check = ("--check",) if arguments[0] == "fmt" else ()
    assert not {"tvm", "cupy", "tvm_ffi"} & modules_after(*arguments, *check, *spec)


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help(weft: Callable, golden: Golden, name: str) -> None:
    outcome = weft(*([name] if name else []), "--help")
    assert outcome.code == 0
    golden(f"cli/help_{name or 'weft'}.txt", outcome.out)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_examples_and_the_json_option(weft: Callable, name: str) -> None:
    text = weft(name, "-h").out
    assert "Examples:" in text
    assert "--json" in text
    assert text.count(f"weft {name} ") >= 2


def test_the_listed_summary_is_no_other_than_the_commands_own_subject(weft: Callable) -> None:
    listing = weft("--help").out
    for name, summary in COMMANDS.items():
        assert f"{name} " in listing
        assert summary in listing


def test_version(weft: Callable) -> None:
    assert weft("--version").out == "weft 0.1.0\n"


def test_without_arguments_the_help_is_shown(weft: Callable) -> None:
    outcome = weft()
    assert outcome.code == 2
    assert "Commands:" in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["trian"], "did you mean `train`?"),
        (["digits.weft"], "did you mean `weft train digits.weft`?"),
        (["zzz"], "the commands are new, check,"),
    ],
)
def test_unknown_command(weft: Callable, arguments: list[str], hint: str) -> None:
    outcome = weft(*arguments)
    assert outcome.code == 2
    assert hint in outcome.err
    assert not outcome.out


@pytest.mark.parametrize("name", COMMANDS)
def test_unknown_option(weft: Callable, name: str) -> None:
    outcome = weft(name, "--bogus")
    assert outcome.code == 2
    assert "--bogus" in outcome.err


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"cache", "explain"}))
def test_missing_argument(weft: Callable, name: str) -> None:
    outcome = weft(name, "--json")
    assert outcome.code == 2
    assert outcome.json["error"]["severity"] == "usage"


def test_a_bug_is_called_one(weft: Callable, monkeypatch: pytest.MonkeyPatch, spec: Path) -> None:
    import weft as package

    def broken(*arguments: object, **settings: object) -> None:
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr(package, "load", broken)
    outcome = weft("check", spec, "--json")
    assert outcome.code == 70
    assert "internal error: ZeroDivisionError: no such luck" in outcome.err
    assert f"weft --traceback check {spec}" in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.json["error"]["severity"] == "internal"
    assert "Traceback" in weft("--traceback", "check", spec).err


def test_a_reader_that_leaves_is_no_error() -> None:
    code = f"{sys.executable} -m weft explain | head -n 1"
    result = subprocess.run(
        ["bash", "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.stdout == "Values\n"
    assert result.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("further", ["", " --json"])
def test_output_that_cannot_be_written_is_told(further: str) -> None:
    code = f"{sys.executable} -m weft explain gelu{further} > /dev/full"
    result = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == "error: No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_outputs_are_no_error(closed: str) -> None:
    code = f"{sys.executable} -m weft explain gelu {closed}"
    result = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert result.stderr == ""


def test_a_narrow_terminal_breaks_no_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    row = ("loss", "0.123456", "0.234567", "0.345678")
    print_table(Table(("metric", "train", "valid", "test"), [row], frozenset({1, 2, 3})))
    assert capsys.readouterr().out.splitlines()[-1].split() == list(row)


def test_text_that_the_terminal_cannot_show_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "größe.weft"
    result = python(
        "-m", "weft", "check", str(path), env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert result.returncode == 1
    assert "there is no file" in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_leaves(spec: Path, tmp_path: Path, number: int, code: int) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "weft",
        "train",
        str(spec),
        "--backend",
        "numpy",
        "--out",
        str(out),
        "--json",
    ]
    process = subprocess.Popen(
        [*command, "--set", "epochs=100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 3/") or " 3/" in line:
            break
    process.send_signal(number)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "everything is saved" in errors
    assert "Traceback" not in errors
    assert '"error"' in rest.splitlines()[-1]
    assert list((out / "checkpoints").iterdir())
