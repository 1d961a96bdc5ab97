"""What each command does when all is well."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from goldens import Golden
from weft.cli.new import TEMPLATES, houses
from weft.runtime.backends import installed
from weft.runtime.cache import Cache

native = pytest.mark.skipif("tvm" not in installed(), reason="needs the extra `tvm`")
EXAMPLES = Path(__file__).parents[2] / "examples"


class TestCheck:
    def test_an_example(
        self, weft: Callable, golden: Golden, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(EXAMPLES)
        outcome = weft("check", "digits_mlp.weft")
        assert outcome.code == 0
        golden("cli/check_digits_mlp.txt", outcome.out)

    def test_a_setting_changes_the_cost(self, weft: Callable, spec: Path) -> None:
        assert "1,210" in weft("check", spec).out
        assert "2,410" in weft("check", spec, "--set", "hidden=32").out

    def test_names_with_markup_are_printed_as_they_are(self, weft: Callable, spec: Path) -> None:
        spec.write_text(spec.read_text().replace("let hidden = 16", "let hidden = [16][0]"))
        assert weft("check", spec).code == 0


class TestTrain:
    def test_says_what_it_does(self, weft: Callable, spec: Path) -> None:
        outcome = weft("train", spec, "--backend", "numpy")
        assert outcome.code == 0
        assert outcome.err == ""
        lines = outcome.out.splitlines()
        assert lines[0] == ("training small: 1.21 k parameters, 46 steps in 2 epochs, on numpy")
        assert lines[1] == "compiling for batches of 64 and 29, and of 64 and 52 for evaluation"
        assert lines[2].startswith("epoch 1/2  loss ")
        assert " | valid loss " in lines[2]
        assert lines[3].startswith("epoch 2/2  loss ")
        assert lines[4] == "finished after 46 steps, 2 epochs"
        assert lines[6].split() == ["metric", "train", "valid", "test"]
        assert [line.split()[0] for line in lines[8:10]] == ["loss", "accuracy"]
        assert "The run is in runs/small-001. What to do next:" in lines
        assert "  weft export runs/small-001 -o small.onnx" in lines

    def test_quiet(self, weft: Callable, spec: Path) -> None:
        lines = weft("train", spec, "--backend", "numpy", "--quiet").out.splitlines()
        assert len(lines) == 4

    def test_a_finished_run_resumed_is_as_it_was(self, weft: Callable, spec: Path) -> None:
        first = weft("train", spec, "--backend", "numpy", "--out", "r", "--json", "-q").json
        assert weft("train", "--resume", "r", "--json", "-q").json == first
        assert (
            weft("train", spec, "--backend", "numpy", "--resume", "r", "--json", "-q").json == first
        )
        assert (
            weft("train", spec, "--backend", "numpy", "--out", "r", "--resume", "--json", "-q").json
            == first
        )
        assert weft("train", "--resume", spec, "--out", "r", "--json", "-q").json == first

    def test_resume_begins_a_run_that_never_began(self, weft: Callable, spec: Path) -> None:
        outcome = weft(
            "train", spec, "--backend", "numpy", "--out", "new", "--resume", "--json", "-q"
        )
        assert outcome.code == 0
        assert outcome.json["run"] == "new"

    def test_settings_are_kept_with_the_run(self, weft: Callable, spec: Path) -> None:
        settings = ("--set", "hidden=8", "--set", "activation=tanh", "--set", "epochs=1")
        first = weft(
            "train", spec, "--backend", "numpy", "--out", "r", "--json", "-q", *settings
        ).json
        spec.unlink()
        assert first["steps"] == 23
        assert weft("train", "--resume", "r", "--json", "-q").json == first
        assert weft("eval", "r", "--json").json["test"] == pytest.approx(first["test"])

    def test_warnings_are_shown_once(self, weft: Callable, spec: Path) -> None:
        spec.write_text(spec.read_text().replace("dense(classes)", "dense(classes, init = zeros)"))
        for quiet in ((), ("--quiet",)):
            outcome = weft("train", spec, "--backend", "numpy", "--set", "epochs=1", *quiet)
            assert outcome.err.count("warning:") == 1


@pytest.mark.skipif(os.name != "posix", reason="needs a terminal of POSIX")
@pytest.mark.parametrize("columns", [40, 80, 200])
def test_on_a_terminal(spec: Path, columns: int) -> None:
    import pty

    def session(*arguments: str) -> str:
        shown = b""
        command = f"stty cols {columns}; exec {sys.executable} -m weft {' '.join(arguments)}"
        pid, terminal = pty.fork()
        if not pid:
            os.chdir(spec.parent)
            os.execvp("bash", ["bash", "-c", command])
        while True:
            try:
                part = os.read(terminal, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown.decode()
        return shown.decode()

    text = session("train", spec.name, "--backend", "numpy")
    assert "training small" in text
    assert "epoch 2/2" in text
    assert "finished after 46 steps" in text
    assert "\x1b[?25h" in text  # the cursor is back
    assert "parameters" in session("check", spec.name).replace("\r\n", "")


class TestPredict:
    @pytest.fixture
    def x(self, tmp_path: Path) -> np.ndarray:
        x = np.random.default_rng(0).random((5, 64), dtype=np.float32)
        np.save(tmp_path / "x.npy", x)
        np.savez(tmp_path / "x.npz", x=x, other=x[:, :2])
        np.savez(tmp_path / "raw.npz", features=x * 16)
        titles = ",".join(f"pixel{i}" for i in range(64))
        np.savetxt(tmp_path / "x.csv", x, delimiter=",", header=titles, comments="", fmt="%.9g")
        return x

    def test_files_of_all_kinds_give_the_same(
        self, weft: Callable, run: Path, x: np.ndarray, tmp_path: Path
    ) -> None:
        import weft as package

        wanted = package.open_run(run).predict({"x": x})["net"]
        for source in ("x.npy", "x.npz", "x.csv"):
            assert weft("predict", run, "-i", source, "-o", "y.npy").code == 0
            np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), wanted)
        outcome = weft("predict", run, "-i", "x.npy", "-o", "y.npz")
        assert outcome.out == "wrote y.npz: net for 5 rows\n"
        with np.load(tmp_path / "y.npz") as stored:
            np.testing.assert_array_equal(stored["net"], wanted)
        weft("predict", run, "-i", "x.npy", "-o", "y.csv")
        table = np.genfromtxt(tmp_path / "y.csv", delimiter=",", names=True)
        assert table.dtype.names == tuple(f"net_{i}" for i in range(10))
        np.testing.assert_array_equal(table["net_3"].astype(np.float32), wanted[:, 3])

    @pytest.mark.usefixtures("x")
    def test_raw_columns_are_prepared(self, weft: Callable, run: Path, tmp_path: Path) -> None:
        weft("predict", run, "-i", "x.npy", "-o", "y.npy")
        assert weft("predict", run, "-i", "raw.npz", "-o", "z.npy", "--raw").code == 0
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), np.load(tmp_path / "z.npy"))

    def test_a_table_as_in_training_but_without_its_target(
        self, weft: Callable, tmp_path: Path
    ) -> None:
        weft("new", "p.weft", "--template", "regression")
        assert (
            weft(
                "train", "p.weft", "--backend", "numpy", "--out", "r", "-q", "--set", "epochs=1"
            ).code
            == 0
        )
        lines = (tmp_path / "p.csv").read_text().splitlines()
        (tmp_path / "all.csv").write_text("\n".join(lines[:9]) + "\n")
        cut = [line.rpartition(",")[0] for line in lines[:9]]
        (tmp_path / "cut.csv").write_text("\n".join(cut) + "\n")
        for name in ("all", "cut"):
            outcome = weft("predict", "r", "-i", f"{name}.csv", "-o", f"{name}.out.csv", "--raw")
            assert outcome.code == 0, outcome.err
        found = (tmp_path / "all.out.csv").read_text()
        assert found == (tmp_path / "cut.out.csv").read_text()
        assert found.splitlines()[0] == "net"
        assert len(found.splitlines()) == 9


def test_export_runs_elsewhere(weft: Callable, run: Path, tmp_path: Path) -> None:
    import onnxruntime

    import weft as package

    outcome = weft("export", run, "-o", "net.onnx")
    assert outcome.out.startswith("wrote net.onnx (")
    x = np.random.default_rng(0).random((7, 64), dtype=np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    (found,) = session.run(None, {"x": x})
    np.testing.assert_allclose(
        found, package.open_run(run).predict({"x": x})["net"], rtol=1e-5, atol=1e-6
    )


class TestCompile:
    @pytest.mark.parametrize(
        ("options", "beginning"),
        [
            (("--emit", "ast"), "File  @1:1\n  LetDecl  @2:1\n"),
            (("--emit", "graph", "--graph", "epoch_end"), "graph epoch_end("),
            (("--emit", "fused"), "fused train_step: "),
            (("--emit", "plan", "--graph", "predict"), "plan predict\n"),
            (("--emit", "python", "--graph", "init"), '"""`init` in NumPy'),
            (("--emit", "cuda", "--graph", "predict"), "// "),
            (("--stop-after", "bind", "--graph", "eval_step"), "graph "),
        ],
    )
    def test_stages(
        self, weft: Callable, spec: Path, options: tuple[str, ...], beginning: str
    ) -> None:
        outcome = weft("compile", spec, *options)
        assert outcome.code == 0, outcome.err
        assert outcome.out.startswith(beginning)

    @native
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (
                ("--emit", "kernel"),
                ("kernel_0 ", "stage i0 < 64", "\ntrain_step\n  kernel_0 "),
            ),
            (("--emit", "tir"), ("@I.ir_module", "def kernel_0(", "T.vectorized(")),
            (("--emit", "llvm"), ("target triple", "define ", "llvm.fmuladd.v")),
            (("--emit", "asm", "--graph", "predict"), (".text", "weft_step", "ret")),
            (("--emit", "plan", "--backend", "tvm"), ("plan train_step", "inside of its kernel")),
            (("--emit", "fused", "--backend", "tvm"), ("fused train_step",)),
        ],
    )
    def test_native_code(
        self, weft: Callable, spec: Path, options: tuple[str, ...], words: tuple[str, ...]
    ) -> None:
        outcome = weft("compile", spec, *options)
        assert outcome.code == 0, outcome.err
        assert [word for word in words if word not in outcome.out] == []

    @native
    @pytest.mark.parametrize("form", ["kernel", "tir", "llvm", "asm"])
    def test_no_native_code_in_16_bits(self, weft: Callable, spec: Path, form: str) -> None:
        options = ("--emit", form, "--backend", "tvm", "--set", "precision=f16")
        outcome = weft("compile", spec, *options)
        assert outcome.code == 1
        assert "error: the tvm backend computes in f32 and f64" in outcome.err

    @native
    def test_kernels_have_the_names_of_a_profile(self, weft: Callable, spec: Path) -> None:
        text = weft("compile", spec, "--emit", "kernel").out
        functions, _, calls = text.partition("\ntrain_step\n")
        told = weft("profile", spec, "--backend", "tvm", "--steps", "1", "--json").json["kernels"]
        headings = re.findall(r"^(kernel_\d+) (\w+)", functions, re.MULTILINE)
        assert {(k["name"], k["kind"]) for k in told} == {*headings}
        called = [line.split()[0] for line in calls.splitlines()]
        assert {k["name"]: k["calls"] for k in told} == {n: called.count(n) for n in called}

    @native
    def test_a_loop_shows_its_turns(self, weft: Callable) -> None:
        text = weft("compile", EXAMPLES / "lstm_lm.weft", "--emit", "kernel").out
        assert re.search(r"^  turns k < \d+ of ", text, re.MULTILINE)
        assert re.search(r"^    h at p\d+ \+ \d+\*k$", text, re.MULTILINE)
        assert re.search(r"^    kernel_\d+ h\[0\], ", text, re.MULTILINE)

    def test_passes_stop_where_asked(self, weft: Callable, spec: Path) -> None:
        symbolic = weft("compile", spec, "--graph", "predict").out
        assert "f32[batch, 64]" in symbolic
        bound = weft("compile", spec, "--graph", "predict", "--stop-after", "bind").out
        assert "f32[64, 64]" in bound
        assert "call(" in bound
        opened = weft("compile", spec, "--graph", "predict", "--stop-after", "decompose").out
        assert "call(" not in opened

    def test_settings_count(self, weft: Callable, spec: Path) -> None:
        outcome = weft("compile", spec, "--graph", "predict", "--set", "hidden=24")
        assert "f32[64, 24]" in outcome.out

    def test_the_same_in_every_process(self, spec: Path) -> None:
        texts = set()
        for seed in ("1", "2"):
            command = [sys.executable, "-m", "weft", "compile", str(spec), "--emit", "python"]
            result = subprocess.run(
                command,
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
            )
            texts.add(result.stdout)
        assert len(texts) == 1


class TestExplain:
    @pytest.mark.parametrize("name", ["gelu", "adamw", "batch_norm", "cosine", "he_normal", "sum"])
    def test_names(self, weft: Callable, golden: Golden, name: str) -> None:
        golden(f"cli/explain_{name}.txt", weft("explain", name).out)

    def test_names_of_a_spec(self, weft: Callable, spec: Path) -> None:
        text = weft("explain", "mlp", spec).out
        assert text.startswith("layer mlp(x: f32[B, D], classes = 10, activation = relu)\n")
        assert f"{spec}:11" in text
        assert "x |> dense(hidden)" in text
        assert weft("explain", "net", spec).out.startswith("model net\n")
        assert weft("explain", "hidden", spec).out.startswith("let hidden\n")
        assert weft("explain", "relu", spec).out == weft("explain", "relu").out

    def test_listing_of_a_spec(self, weft: Callable, spec: Path) -> None:
        for arguments in ((spec,), ()):
            text = weft("explain", *arguments).out
            assert "Layers\n" in text
            assert max(map(len, text.splitlines())) <= 100
        assert "Optimisers\n" in text

    def test_everything_listed_can_be_explained(self, weft: Callable) -> None:
        from weft.cli.explain import explain

        for names in weft("explain", "--json").json["groups"].values():
            for name in names:
                assert explain(name, None).signature


class TestFmt:
    def test_in_place(self, weft: Callable, tmp_path: Path) -> None:
        (tmp_path / "a.weft").write_text("let   a=1   # one\n")
        assert weft("fmt", "a.weft").out == "formatted a.weft\n"
        assert (tmp_path / "a.weft").read_text() == "let a = 1   # one\n"
        assert weft("fmt", "a.weft").out == ""

    def test_check(self, weft: Callable, tmp_path: Path, spec: Path) -> None:
        (tmp_path / "a.weft").write_text("let   a=1\n")
        outcome = weft("fmt", "--check", "a.weft", spec)
        assert outcome.code == 1
        assert outcome.out == "would change a.weft\n"
        assert (tmp_path / "a.weft").read_text() == "let   a=1\n"
        assert weft("fmt", "--check", spec).code == 0

    def test_diff(self, weft: Callable, tmp_path: Path) -> None:
        (tmp_path / "a.weft").write_text("let   a=1\n")
        outcome = weft("fmt", "--diff", "a.weft")
        assert outcome.out.splitlines() == [
            "--- a.weft",
            "+++ a.weft (formatted)",
            "@@ -1 +1 @@",
            "-let   a=1",
            "+let a = 1",
        ]
        assert (tmp_path / "a.weft").read_text() == "let   a=1\n"

    def test_stdin(self, weft: Callable) -> None:
        assert weft("fmt", "-", stdin="let   a=1").out == "let a = 1\n"

    def test_the_examples_are_formatted(self, weft: Callable) -> None:
        files = sorted(EXAMPLES.rglob("*.weft"))
        assert len(files) >= 4
        assert weft("fmt", "--check", *files).out == ""


class TestCache:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
        found = Cache(tmp_path / "compiled")
        monkeypatch.setattr("weft.runtime.cache.user_cache", lambda: found)
        found.put("entry", lambda folder: (folder / "code").write_bytes(bytes(5000)) and None)
        return found

    def test_shows_where_and_how_large(self, weft: Callable, cache: Cache) -> None:
        *_, row = weft("cache").out.splitlines()
        assert row.split()[:2] == [str(cache.root), "1"]
        assert row.split()[2:] == ["5.05", "kB", "2", "GB"]

    def test_clear(self, weft: Callable, cache: Cache) -> None:
        found = weft("cache", "--clear", "--json").json
        assert found == {
            "folder": str(cache.root),
            "entries": 0,
            "bytes": 0,
            "limit": cache.limit,
        }
        assert not list(cache.root.iterdir())


class TestGraph:
    @pytest.mark.parametrize("graph", ["predict", "train_step", "eval_step", "init", "epoch_end"])
    def test_svg(self, weft: Callable, spec: Path, tmp_path: Path, graph: str) -> None:
        pytest.importorskip("pygraphviz")
        outcome = weft("graph", spec, "-o", "net.svg", "--graph", graph)
        assert outcome.code == 0, outcome.err
        text = (tmp_path / "net.svg").read_text()
        root = ElementTree.fromstring(text)
        assert root.tag.endswith("svg")
        if graph == "predict":
            words = "".join(root.itertext())
            for word in ("net.dense.w", "f32[64, 16]", "f32[batch, 10]", "relu", "dot_general"):
                assert word in words
            assert "small.weft:12:" in text

    def test_depth(self, weft: Callable, spec: Path, tmp_path: Path) -> None:
        counts = []
        for depth in (0, 1, 2):
            weft("graph", spec, "-o", "net.dot", "--graph", "eval_step", "--depth", depth)
            text = (tmp_path / "net.dot").read_text()
            counts.append((text.count("subgraph"), text.count("label=")))
        assert counts[0][0] == 0
        assert counts[0] < counts[1] < counts[2]

    def test_every_edge_has_its_ends(self, weft: Callable, tmp_path: Path) -> None:
        for file in sorted(EXAMPLES.glob("digits*.weft")):
            weft("graph", file, "-o", "net.dot", "--graph", "train_step", "--depth", "3")
            text = (tmp_path / "net.dot").read_text()
            nodes = set(re.findall(r"^ *(n\d+) \[", text, re.MULTILINE))
            ends = set(re.findall(r"\bn\d+\b(?= ->|;)", text))
            assert ends <= nodes
            assert len(nodes - ends) <= 2  # inputs that nothing reads


class TestNew:
    @pytest.mark.parametrize("template", TEMPLATES)
    def test_templates_train_at_once(self, weft: Callable, tmp_path: Path, template: str) -> None:
        outcome = weft("new", "first try", "--template", template)
        assert outcome.out.startswith(f"wrote {Path('first try', 'first try.weft')}\n")
        spec = tmp_path / "first try" / "first try.weft"
        text = spec.read_text()
        assert "{" + "name}" not in text
        assert "first try.weft" in text
        assert weft("fmt", "--check", spec).code == 0
        assert weft("check", spec).code == 0
        outcome = weft("train", spec, "--backend", "numpy", "--json", "-q", "--set", "steps=20")
        assert outcome.code == 0, outcome.err
        assert outcome.err == ""

    def test_file_and_folder(self, weft: Callable, tmp_path: Path) -> None:
        assert weft("new", "a.weft").out.startswith("wrote a.weft\n")
        assert weft("new", "deep/er").out.startswith("wrote deep/er/er.weft\n")
        assert weft("new", ".").code == 0
        assert (tmp_path / f"{tmp_path.name}.weft").is_file()

    def test_strange_names(self, weft: Callable) -> None:
        assert weft("new", 'a"b\n.weft', "--template", "regression").code == 0
        assert weft("fmt", "--check", 'a"b\n.weft').code == 0

    def test_the_table_is_the_same_everywhere(self) -> None:
        lines = houses().splitlines()
        assert lines[:3] == ["width,height,age,price", "5.00,5.43,30,59.5", "9.84,5.95,26,106.5"]
        assert len(lines) == 201
