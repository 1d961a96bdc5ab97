"""A wrong input to any option is told as the mistake it is: a message, a code, no traceback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from weft.compiler.errors import RunError

SPEC_COMMANDS = (
    ("check",),
    ("train",),
    ("compile",),
    ("compile", "--emit", "ast"),
    ("graph", "-o", "net.dot"),
)
RUN_COMMANDS = (
    ("eval",),
    ("predict", "-i", "x.npy", "-o", "y.npy"),
    ("export", "-o", "net.onnx"),
    ("train", "--resume"),
)


def refused(outcome: object, *said: str, code: int = 1) -> None:
    """The outcome is a refusal that says this, and says it as JSON too."""
    assert outcome.code == code, outcome  # type: ignore[attr-defined]
    errors = outcome.err  # type: ignore[attr-defined]
    assert "Traceback" not in errors
    assert "internal error" not in errors
    for words in said:
        assert words in errors
    assert said[0] in outcome.json["error"]["message"]  # type: ignore[attr-defined]


@pytest.fixture
def arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 64), np.float32))


@pytest.mark.parametrize("command", SPEC_COMMANDS, ids=" ".join)
class TestASpecThatCannotBeRead:
    def test_missing(self, weft: Callable, spec: Path, command: tuple[str, ...]) -> None:
        outcome = weft(*command, "smal.weft", "--json")
        refused(outcome, "there is no file `smal.weft`", "`small.weft`")

    def test_folder(self, weft: Callable, tmp_path: Path, command: tuple[str, ...]) -> None:
        refused(weft(*command, tmp_path, "--json"), "is a folder", "a `.weft` file")

    def test_empty(self, weft: Callable, tmp_path: Path, command: tuple[str, ...]) -> None:
        (tmp_path / "empty.weft").touch()
        outcome = weft(*command, "empty.weft", "--json")
        if "ast" in command:
            assert outcome.code == 0
        else:
            refused(outcome, "the spec has no `train` block")

    def test_binary(self, weft: Callable, tmp_path: Path, command: tuple[str, ...]) -> None:
        (tmp_path / "binary.weft").write_bytes(b"\x80\x00\xff" * 100)
        refused(weft(*command, "binary.weft", "--json"), "is not UTF-8 text")

    def test_syntax(self, weft: Callable, spec: Path, command: tuple[str, ...]) -> None:
        spec.write_text(spec.read_text().replace("dense(hidden)", "dense(hidden"))
        outcome = weft(*command, spec, "--json")
        assert outcome.code == 1
        assert "^" in outcome.err
        assert outcome.json["error"]["line"] > 1


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs file permissions")
def test_a_spec_without_the_right_to_read(weft: Callable, spec: Path) -> None:
    spec.chmod(0)
    refused(weft("check", spec, "--json"), "can't be read")


class TestSet:
    @pytest.mark.parametrize("text", ["hidden", "=3", "3=3", "a b=1", ""])
    def test_no_key_and_value(self, weft: Callable, spec: Path, text: str) -> None:
        outcome = weft("check", spec, "--json", "--set", text)
        refused(outcome, "is not KEY=VALUE", code=2)

    def test_twice(self, weft: Callable, spec: Path) -> None:
        outcome = weft("check", spec, "--json", "--set", "hidden=1", "--set", "hidden=2")
        refused(outcome, "`hidden` is set twice", code=2)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("hiden=3", ["nothing to set is called `hiden`", "did you mean `hidden`?"]),
            ("hidden=rellu", ["`rellu` is not defined", "did you mean `relu`?"]),
            ("hidden=3 +", ["unexpected end", "^"]),
            ("hidden=", ["unexpected end"]),
            ("hidden='x'", ["^"]),
            ('hidden="x', ["^"]),
            ("hidden=relu", ["can't take this as `units`", "the fn `relu`"]),
            ("hidden=-3", ["^"]),
            ("hidden=0", ["^"]),
            ("hidden=1e400", ["^"]),
            ("hidden=10^18", ["`w` is larger than any memory", "f32[64, 1000000000000000000]"]),
            ("epochs=0", ["`epochs` is a whole number, at least 1"]),
            ("epochs=many", ["`many` is not defined"]),
            ("steps=1.5", ["`steps` is a whole number, at least 1"]),
            ("seed=-1", ["`seed` is a whole number, at least 0"]),
            ("precision=f31", ["f31"]),
            ("precision=3", ["`precision` is a floating type"]),
            ("activation=3", ["^"]),
            ("hidden=" + "(" * 5000 + "1" + ")" * 5000, ["deep"]),
        ],
    )
    def test_wrong(self, weft: Callable, spec: Path, text: str, said: list[str]) -> None:
        outcome = weft("check", spec, "--json", "--set", text)
        assert outcome.code == 1, outcome
        for words in said:
            assert words in outcome.err
        assert outcome.json["error"]["message"]

    @pytest.mark.parametrize(
        ("text", "parameters"),
        [
            ("hidden=8", 64 * 8 + 8 + 8 * 10 + 10),
            ("hidden = 8", 64 * 8 + 8 + 8 * 10 + 10),
            ("hidden=2 * 4", 64 * 8 + 8 + 8 * 10 + 10),
            ("hidden=hidden // 2", 64 * 8 + 8 + 8 * 10 + 10),
            ("activation=tanh", 64 * 16 + 16 + 16 * 10 + 10),
            ("activation=gelu", 64 * 16 + 16 + 16 * 10 + 10),
            ("precision=f64", 64 * 16 + 16 + 16 * 10 + 10),
            ("epochs=3 epochs", 64 * 16 + 16 + 16 * 10 + 10),
        ],
    )
    def test_right(self, weft: Callable, spec: Path, text: str, parameters: int) -> None:
        outcome = weft("check", spec, "--json", "--set", text)
        assert outcome.code == 0, outcome.err
        assert outcome.json["parameters"] == parameters


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--epochs", "3"), "Did you mean `--set epochs=3`?"),
        (("--seed=7",), "Did you mean `--set seed=7`?"),
        (("--learning-rate", "0.1"), "Did you mean `--set learning_rate=0.1`?"),
        (("--hidden", "--quiet"), "Did you mean `--set hidden=...`?"),
        (("--bakend", "numpy"), "Did you mean '--backend'?"),
        (("-z",), "No such option '-z'."),
    ],
)
def test_a_setting_given_as_an_option(
    weft: Callable, spec: Path, given: tuple[str, ...], said: str
) -> None:
    outcome = weft("train", spec, *given)
    assert outcome.code == 2
    assert said in outcome.err


@pytest.mark.parametrize("command", ["check", "train"])
def test_unknown_backend(weft: Callable, spec: Path, command: str) -> None:
    outcome = weft(command, spec, "--json", "--backend", "nunpy")
    refused(outcome, "there is no backend `nunpy`", "did you mean `numpy`?")


@pytest.mark.usefixtures("arrays")
@pytest.mark.parametrize("command", RUN_COMMANDS, ids=lambda c: c[0])
class TestARunThatIsNone:
    @staticmethod
    def call(weft: Callable, command: tuple[str, ...], run: Path | str) -> object:
        if command[-1] == "--resume":
            return weft(*command, run, "--json")
        return weft(command[0], run, *command[1:], "--json")

    def test_missing(self, weft: Callable, command: tuple[str, ...]) -> None:
        refused(self.call(weft, command, "nowhere"), "there is no run at `nowhere`")

    def test_another_folder(self, weft: Callable, tmp_path: Path, command: tuple[str, ...]) -> None:
        refused(self.call(weft, command, tmp_path), "there is no run at", "no `spec.json` in it")

    def test_file(self, weft: Callable, spec: Path, command: tuple[str, ...]) -> None:
        outcome = self.call(weft, command, spec)
        assert outcome.code in (1, 2)  # type: ignore[attr-defined]
        assert "Traceback" not in outcome.err  # type: ignore[attr-defined]

    @pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
    def test_corrupt_checkpoints(
        self, weft: Callable, run: Path, tmp_path: Path, command: tuple[str, ...], damage: str
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(run, copy)
        (copy / "result.json").unlink()
        for file in (copy / "checkpoints").iterdir():
            content = file.read_bytes()
            half = len(content) // 2
            file.write_bytes(
                {"cut": content[:half], "noise": content[:half] + b"?" * half, "empty": b""}[damage]
            )
        outcome = self.call(weft, command, copy)
        assert "Traceback" not in outcome.err  # type: ignore[attr-defined]
        if command[0] == "train":
            # It begins again, and says which checkpoints it passed over.
            assert outcome.code == 0, outcome  # type: ignore[attr-defined]
            assert "is passed over" in outcome.err  # type: ignore[attr-defined]
        else:
            assert outcome.code == 1, outcome  # type: ignore[attr-defined]
            assert outcome.json["error"]["message"]  # type: ignore[attr-defined]

    @pytest.mark.parametrize("name", ["spec.json", "spec.weft", "environment.json"])
    def test_damaged_record(
        self, weft: Callable, run: Path, tmp_path: Path, command: tuple[str, ...], name: str
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(run, copy)
        (copy / name).write_bytes(b"\x00{not json")
        outcome = self.call(weft, command, copy)
        assert outcome.code in (0, 1), outcome  # type: ignore[attr-defined]
        assert "Traceback" not in outcome.err  # type: ignore[attr-defined]
        assert "internal error" not in outcome.err  # type: ignore[attr-defined]


def test_a_run_for_a_spec_and_a_spec_for_a_run(weft: Callable, spec: Path, run: Path) -> None:
    refused(weft("train", run, "--json"), "is a folder", f"`weft train --resume {run}`")
    refused(weft("eval", spec, "--json"), "there is no run at", "`runs/digits-001`", "a file")


@pytest.mark.parametrize("command", ["compile", "graph"])
def test_no_result_replaces_a_spec(weft: Callable, spec: Path, command: str) -> None:
    text = spec.read_text()
    refused(weft(command, spec, "-o", spec, "--json"), "is a spec's name")
    assert spec.read_text() == text


def test_a_model_that_reads_no_field(weft: Callable, tmp_path: Path) -> None:
    weft("new", "g.weft", "--template", "gan")
    told = weft("train", "g.weft", "--backend", "numpy", "--out", "my run", "--set", "steps=2").out
    assert "weft predict 'my run' --rows 100 --output" in told
    assert weft("predict", "my run", "--rows", "5", "-o", "made.npz").code == 0
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 2)))
    outcome = weft("predict", "my run", "-i", "x.npz", "-o", "made.npz", "--json")
    refused(outcome, "the model reads no field", "`--rows` on the command line")
    for options in ((), ("-i", "x.npz", "--rows", "3")):
        outcome = weft("predict", "my run", "-o", "made.npz", "--json", *options)
        refused(outcome, "name the arrays with --input", code=2)


class TestTrain:
    def test_nothing_to_train(self, weft: Callable) -> None:
        refused(weft("train", "--json"), "name a spec to train", code=2)

    def test_resume_without_a_run(self, weft: Callable, spec: Path) -> None:
        refused(
            weft("train", spec, "--backend", "numpy", "--json", "--resume"), "name the run", code=2
        )

    def test_two_folders(self, weft: Callable, spec: Path) -> None:
        outcome = weft("train", spec, "--backend", "numpy", "--json", "--out", "a", "--resume", "b")
        refused(outcome, "different folders", code=2)

    def test_settings_of_a_run_are_settled(self, weft: Callable, run: Path) -> None:
        outcome = weft("train", "--resume", run, "--json", "--set", "hidden=3")
        refused(outcome, "no --set", code=2)

    def test_out_holds_a_run(self, weft: Callable, spec: Path, run: Path) -> None:
        refused(
            weft("train", spec, "--backend", "numpy", "--json", "--out", run),
            "holds another run",
            "--resume",
        )

    def test_out_is_not_empty(self, weft: Callable, spec: Path, tmp_path: Path) -> None:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.txt").touch()
        refused(
            weft("train", spec, "--backend", "numpy", "--json", "--out", "full"),
            "is not empty",
            "thesis.txt",
        )

    def test_out_is_a_file(self, weft: Callable, spec: Path) -> None:
        refused(weft("train", spec, "--backend", "numpy", "--json", "--out", spec), "is a file")

    def test_out_cannot_be_made(self, weft: Callable, spec: Path) -> None:
        refused(
            weft("train", spec, "--backend", "numpy", "--json", "--out", spec / "run"),
            "no folder for the run",
        )

    def test_resume_of_another_spec(self, weft: Callable, spec: Path, run: Path) -> None:
        spec.write_text(spec.read_text().replace("1e-2", "2e-2"))
        refused(
            weft("train", spec, "--backend", "numpy", "--json", "--resume", run),
            "is of another spec",
        )

    def test_resume_with_other_settings(self, weft: Callable, spec: Path, run: Path) -> None:
        refused(
            weft("train", spec, "--backend", "numpy", "--json", "--resume", run, "--set", "seed=3"),
            "began with other settings",
            "expected: no `--set`, as it began",
            "found: `--set seed=3`",
        )

    def test_a_loss_that_is_not_finite(self, weft: Callable, spec: Path) -> None:
        spec.write_text(spec.read_text().replace("adam(1e-2)", "sgd(1e30)"))
        outcome = weft("train", spec, "--backend", "numpy", "--json", "--quiet")
        assert outcome.code == 1
        assert "finite" in outcome.json["error"]["message"]
        assert "small.weft:" in outcome.err

    def test_checkpoint_every(self, weft: Callable, spec: Path) -> None:
        assert weft("train", spec, "--backend", "numpy", "--checkpoint-every", "0").code == 2
        assert weft("train", spec, "--backend", "numpy", "--checkpoint-every", "x").code == 2


class TestEval:
    def test_unknown_split(self, weft: Callable, run: Path) -> None:
        outcome = weft("eval", run, "--split", "tset", "--json")
        assert outcome.code == 2
        assert "'tset'" in outcome.err

    def test_absent_split(self, weft: Callable, spec: Path) -> None:
        spec.write_text(
            spec.read_text()
            .replace(", test: 10%", ", valid: 10%")
            .replace("valid: 10%, valid: 10%", "valid: 20%")
        )
        assert weft("train", spec, "--backend", "numpy", "--out", "r", "-q").code == 0
        refused(weft("eval", "r", "--split", "test", "--json"), "the data has no part `test`")


class TestPredict:
    @pytest.mark.parametrize("name", ["none.npz", "none.npy", "none.csv"])
    def test_missing_input(self, weft: Callable, run: Path, name: str) -> None:
        outcome = weft("predict", run, "-i", name, "-o", "y.npz", "--json")
        refused(outcome, f"there is no file `{name}`")

    @pytest.mark.parametrize("name", ["bad.npz", "bad.npy", "bad.csv"])
    def test_damaged_input(self, weft: Callable, run: Path, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"\x93NUMPY\x00\xff\xfe")
        outcome = weft("predict", run, "-i", name, "-o", "y.npz", "--json")
        refused(outcome, name)

    @pytest.mark.parametrize(
        ("array", "said"),
        [
            (np.array(["a", "b"]), ["the input is text"]),
            (np.zeros((0, 64), np.float32), ["`x.npy` has no examples"]),
            (np.zeros((2, 64), np.complex64), ["in `x.npy` has a type", "`complex64`"]),
            (np.full((2, 64), 1e300), ["numbers that f32 does not reach", "3.4e+38", "1e+300"]),
        ],
    )
    def test_array_of_no_numbers(
        self, weft: Callable, run: Path, tmp_path: Path, array: np.ndarray, said: list[str]
    ) -> None:
        np.save(tmp_path / "x.npy", array)
        refused(weft("predict", run, "-i", "x.npy", "-o", "y.npz", "--json"), *said)

    def test_input_is_a_folder(self, weft: Callable, run: Path) -> None:
        refused(weft("predict", run, "-i", ".", "-o", "y.npz", "--json"), "`.` is a folder")

    def test_input_of_another_kind(self, weft: Callable, run: Path) -> None:
        outcome = weft("predict", run, "-i", "x.txt", "-o", "y.npz", "--json")
        refused(outcome, "`x.txt` is no kind of file for arrays", "`.npz`")

    @pytest.mark.usefixtures("arrays")
    def test_output_of_another_kind(self, weft: Callable, run: Path) -> None:
        outcome = weft("predict", run, "-i", "x.npy", "-o", "y.txt", "--json")
        refused(outcome, "`y.txt` is no kind of file for arrays")

    @pytest.mark.usefixtures("arrays")
    def test_output_in_no_folder(self, weft: Callable, run: Path) -> None:
        outcome = weft("predict", run, "-i", "x.npy", "-o", "nowhere/y.npy", "--json")
        refused(outcome, "cannot be written", "no folder `nowhere`")

    def test_field_of_another_name(self, weft: Callable, run: Path, tmp_path: Path) -> None:
        np.savez(tmp_path / "z.npz", z=np.zeros((3, 64), np.float32))
        outcome = weft("predict", run, "-i", "z.npz", "-o", "y.npz", "--json")
        refused(outcome, "the input has no field `x`", "--raw")
        raw = weft("predict", run, "-i", "z.npz", "-o", "y.npz", "--raw", "--json")
        refused(raw, "the input has no column `features`")

    @pytest.mark.parametrize("shape", [(3, 63), (64,), (3, 8, 8), ()])
    def test_wrong_shape(
        self, weft: Callable, run: Path, tmp_path: Path, shape: tuple[int, ...]
    ) -> None:
        np.savez(tmp_path / "x.npz", x=np.zeros(shape, np.float32))
        outcome = weft("predict", run, "-i", "x.npz", "-o", "y.npz", "--json")
        assert outcome.code == 1, outcome
        assert "internal error" not in outcome.err

    def test_wrong_type(self, weft: Callable, run: Path, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=np.full((3, 64), "a"))
        outcome = weft("predict", run, "-i", "x.npz", "-o", "y.npz", "--json")
        assert outcome.code == 1, outcome
        assert "internal error" not in outcome.err

    def test_pickled_objects(self, weft: Callable, run: Path, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=np.array([{}], dtype=object))
        outcome = weft("predict", run, "-i", "x.npz", "-o", "y.npz", "--json")
        refused(outcome, "pickled Python objects")


class TestOutputs:
    @pytest.mark.parametrize(
        "command",
        [
            ("compile", "SPEC", "-o"),
            ("graph", "SPEC", "-o"),
            ("export", "RUN", "-o"),
        ],
        ids=lambda c: c[0],
    )
    def test_no_such_place(
        self, weft: Callable, spec: Path, run: Path, tmp_path: Path, command: tuple[str, ...]
    ) -> None:
        given = [{"SPEC": spec, "RUN": run}.get(word, word) for word in command]
        refused(weft(*given, "nowhere/file.dot", "--json"), "cannot be written")
        refused(weft(*given, tmp_path, "--json"), "is a folder")

    def test_graph_of_another_kind(self, weft: Callable, spec: Path) -> None:
        refused(weft("graph", spec, "-o", "net.png", "--json"), "`net.png` is no kind of picture")

    def test_graph_without_the_package_that_draws(
        self, weft: Callable, spec: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "pygraphviz", None)
        outcome = weft("graph", spec, "-o", "net.svg", "--json")
        refused(outcome, "drawing needs pygraphviz", 'pip install "weft[plot]"', "`.dot`")

    def test_export_to_an_unknown_opset(self, weft: Callable, run: Path) -> None:
        for opset in ("3", "999"):
            outcome = weft("export", run, "-o", "net.onnx", "--opset", opset, "--json")
            assert outcome.code in (1, 2), outcome
            assert "internal error" not in outcome.err
        assert weft("export", run, "-o", "net.onnx", "--opset", "x").code == 2


class TestCompile:
    def test_unknown_stage(self, weft: Callable, spec: Path) -> None:
        outcome = weft("compile", spec, "--emit", "ats", "--json")
        assert outcome.code == 2
        assert "'ast', 'graph', 'fused', 'plan', 'python'" in outcome.err

    def test_unknown_pass(self, weft: Callable, spec: Path) -> None:
        outcome = weft("compile", spec, "--stop-after", "optimize", "--json")
        refused(outcome, "there is no pass `optimize`", "did you mean `optimise`?")

    def test_stop_after_another_stage(self, weft: Callable, spec: Path) -> None:
        outcome = weft("compile", spec, "--emit", "plan", "--stop-after", "pack", "--json")
        refused(outcome, "goes with --emit graph", code=2)

    def test_code_of_another_backend(self, weft: Callable, spec: Path) -> None:
        outcome = weft("compile", spec, "--emit", "asm", "--backend", "numpy", "--json")
        refused(outcome, "the numpy backend makes no `asm`", "`--backend tvm`")

    def test_a_backend_for_what_is_before_any(self, weft: Callable, spec: Path) -> None:
        outcome = weft("compile", spec, "--emit", "graph", "--backend", "numpy", "--json")
        refused(outcome, "the same for every backend", code=2)

    def test_unknown_graph(self, weft: Callable, spec: Path) -> None:
        assert weft("compile", spec, "--graph", "step").code == 2


class TestNew:
    def test_never_overwrites(self, weft: Callable, spec: Path, tmp_path: Path) -> None:
        before = spec.read_text()
        refused(weft("new", spec, "--json"), "is there already")
        assert spec.read_text() == before
        (tmp_path / "prices.csv").write_text("mine\n")
        outcome = weft("new", "prices.weft", "--template", "regression", "--json")
        refused(outcome, "`prices.csv` is there already")
        assert not (tmp_path / "prices.weft").exists()
        (tmp_path / "link.weft").symlink_to(tmp_path / "nowhere")
        refused(weft("new", "link.weft", "--json"), "is there already")

    def test_leaves_nothing_half_written(
        self, weft: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path, content: bytes) -> None:
            if path.suffix == ".csv":
                raise RunError(f"`{path}` cannot be written", found="No space left on device")
            path.write_bytes(content)

        monkeypatch.setattr("weft.runtime.files.write_atomically", full)
        outcome = weft("new", "prices.weft", "--template", "regression", "--json")
        refused(outcome, "`prices.csv` cannot be written", "No space left")
        assert not list(tmp_path.iterdir())

    def test_below_a_file(self, weft: Callable, spec: Path) -> None:
        refused(weft("new", spec / "folder", "--json"), "cannot be written")

    def test_unknown_template(self, weft: Callable) -> None:
        outcome = weft("new", "a.weft", "--template", "clasifier")
        assert outcome.code == 2
        assert "'classifier'" in outcome.err


class TestExplain:
    def test_unknown_name(self, weft: Callable) -> None:
        refused(weft("explain", "adammw", "--json"), "nothing is called `adammw`", "`adamw`")
        refused(weft("explain", "zzzzzz", "--json"), "nothing is called", "lists all names")

    def test_unknown_file(self, weft: Callable) -> None:
        refused(weft("explain", "relu", "none.weft", "--json"), "there is no file `none.weft`")


class TestFmt:
    def test_a_file_that_is_no_spec_stays(self, weft: Callable, tmp_path: Path) -> None:
        (tmp_path / "a.weft").write_text("let = 3\n")
        (tmp_path / "b.weft").write_text("let   b=3\n")
        outcome = weft("fmt", "a.weft", "b.weft", "none.weft", "--json")
        assert outcome.code == 1
        found = outcome.json
        assert found["changed"] == ["b.weft"]
        assert [e["file"] for e in found["errors"]] == ["a.weft", None]
        assert found["error"] == found["errors"][0]
        assert (tmp_path / "a.weft").read_text() == "let = 3\n"
        assert (tmp_path / "b.weft").read_text() == "let b = 3\n"

    def test_stdin_that_is_no_text(self, weft: Callable) -> None:
        outcome = weft("fmt", "-", stdin=b"\xff\xfe\x00")
        assert outcome.code == 1
        assert "stdin is not UTF-8 text" in outcome.err
