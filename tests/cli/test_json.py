"""What programs read: the last line of stdout is one JSON object, of a shape that stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


def test_check(weft: Callable, spec: Path) -> None:
    found = weft("check", spec, "--json").json
    weights = 64 * 16 + 16 * 10
    assert found["parameters"] == weights + 16 + 10
    assert found["multiply_adds"] == weights
    assert found["flops"] >= 2 * weights
    assert found["step_flops"] > 64 * found["flops"]
    assert found["peak_bytes"] > 3 * 4 * found["parameters"]
    assert found["batch"] == 64
    assert [layer["name"] for layer in found["layers"]] == ["net.dense", "net.dense_2"]
    assert sum(line["parameters"] for line in found["lines"]) == found["parameters"]
    assert {line["file"] for line in found["lines"]} == {str(spec)}
    assert found["warnings"] == []
    assert found["examples"] == {"train": 1437, "valid": 180, "test": 180}
    assert (found["steps"], found["steps_per_epoch"]) == (46, 23)
    assert found["classes"] == {"target": [*"0123456789"]}


def test_check_shows_what_convolutions_see(weft: Callable, spec: Path) -> None:
    assert weft("check", spec, "--json").json["receptive_field"] is None
    assert "sees" not in weft("check", spec).out
    text = spec.read_text().replace("f32[64]   = features", "f32[1, 8, 8] = image")
    text = text.replace("[B, D]", "[B, C, H, W]").replace("x |> dense(h", "x |> seeing |> dense(h")
    spec.write_text(f"""{text}
layer seeing(x) {{
  x |> conv(4, kernel = [3, 2], stride = [2, 1]) |> conv_transposed(1, 2, [4, 2]) |> flatten
}}
""")
    found = weft("check", spec, "--json").json
    assert found["receptive_field"] == {"size": [3, 2], "stride": [0.5, 0.5]}
    assert {layer["name"]: layer["receptive_field"] for layer in found["layers"]} == {
        "net.seeing.conv": {"size": [3, 2], "stride": [2, 1]},
        "net.seeing.conv_transposed": {"size": [3, 2], "stride": [0.5, 0.5]},
        "net.dense": None,
        "net.dense_2": None,
    }
    lines = weft("check", spec).out.splitlines()
    (row,) = (line for line in lines if line.startswith("net.seeing.conv "))
    assert row.endswith("3 x 2 every 2 x 1")
    assert lines[-1].endswith("  3 x 2  the largest known, a place every 1/2")


def test_check_shows_what_classes_stand_for(weft: Callable, tmp_path: Path) -> None:
    (tmp_path / "pets.csv").write_text("size,kind\n" + "1.5,cat\n2,dog\n" * 8)
    spec = tmp_path / "pets.weft"
    spec.write_text("""
data pets {
  source = csv("pets.csv")
  x: f32[1]                 = stack([size], at = 1)
  y: class[classes(kind)]   = kind
}
model net = dense(2)
train {
  data = pets.batch(4)
  minimize cross_entropy(net(x), y) with sgd(0.1)
}
""")
    outcome = weft("check", spec)
    assert outcome.out.splitlines()[1] == 'kind: 2 classes, "cat", "dog"'
    assert weft("check", spec, "--json").json["classes"] == {"kind": ["cat", "dog"]}


def test_warnings_are_in_the_object_and_on_stderr(weft: Callable, spec: Path) -> None:
    spec.write_text(spec.read_text().replace("dense(classes)", "dense(classes, init = zeros)"))
    outcome = weft("check", spec, "--json")
    assert outcome.code == 0
    (warning,) = outcome.json["warnings"]
    assert warning["severity"] == "warning"
    assert warning["line"] == 12
    assert f"small.weft:{warning['line']}" in outcome.err


def test_train(weft: Callable, spec: Path, tmp_path: Path) -> None:
    outcome = weft("train", spec, "--backend", "numpy", "--out", "there", "--json")
    found = outcome.json
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) == 1
    assert "epoch 2/2" in outcome.err
    assert found["run"] == "there"
    assert (tmp_path / "there" / "metrics.jsonl").is_file()
    assert found["steps"] == 46
    assert found["epochs"] == 2
    for part in ("train", "valid", "test"):
        assert set(found[part]) == {"loss", "accuracy"}
        assert 0.3 < found[part]["accuracy"] <= 1
    assert found["best_step"] in (23, 46)
    assert found["stopped_early"] is False


def test_quiet_says_nothing_but_the_object(weft: Callable, spec: Path) -> None:
    outcome = weft("train", spec, "--backend", "numpy", "--json", "--quiet", "--set", "epochs=1")
    assert outcome.err == ""
    assert outcome.json["run"] == "runs/small-001"
    assert (
        weft("train", spec, "--backend", "numpy", "--json", "-q", "--set", "epochs=1").json["run"]
        == "runs/small-002"
    )


def test_eval_of_all_parts_agrees_with_training(weft: Callable, run: Path) -> None:
    found = weft("eval", run, "--json").json
    assert found["run"] == str(run)
    assert found["steps"] == 46
    assert set(found) == {"run", "backend", "steps", "train", "valid", "test"}
    recorded = json.loads((run / "result.json").read_text())
    assert found["valid"] == pytest.approx(recorded["valid"])
    assert found["test"] == pytest.approx(recorded["test"])


def test_eval_of_one_part(weft: Callable, run: Path) -> None:
    found = weft("eval", run, "--split", "test", "--json").json
    assert set(found) == {"run", "backend", "steps", "test"}
    assert set(found["test"]) == {"loss", "accuracy"}


def test_predict(weft: Callable, run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 64), np.float32))
    found = weft("predict", run, "--input", "x.npy", "--output", "y.npz", "--json").json
    assert found == {
        "run": str(run),
        "backend": "numpy",
        "path": "y.npz",
        "rows": 3,
        "outputs": {"net": [3, 10]},
    }


def test_export(weft: Callable, run: Path, tmp_path: Path) -> None:
    found = weft("export", run, "-o", "net.onnx", "--json").json
    size = (tmp_path / "net.onnx").stat().st_size
    assert found == {"run": str(run), "path": "net.onnx", "opset": 21, "bytes": size}


def test_compile(weft: Callable, spec: Path, tmp_path: Path) -> None:
    found = weft("compile", spec, "--graph", "predict", "--json").json
    assert found["text"].startswith("graph ")
    assert (found["emit"], found["graph"], found["stop_after"]) == ("graph", "predict", None)
    written = weft("compile", spec, "--emit", "python", "-o", "step.py", "--json").json
    assert written["path"] == "step.py"
    assert "def step(inputs)" in (tmp_path / "step.py").read_text()


def test_explain(weft: Callable) -> None:
    found = weft("explain", "gelu", "--json").json
    assert found["name"] == "gelu"
    assert found["kind"] == "fn"
    assert found["file"] == "library/activations.weft"
    assert "erf" in found["source"]
    groups = weft("explain", "--json").json["groups"]
    assert {"layer", "fn", "init", "optimizer", "schedule", "builtin", "source"} <= set(groups)
    assert "adamw" in groups["optimizer"]


def test_fmt(weft: Callable, spec: Path, tmp_path: Path) -> None:
    (tmp_path / "untidy.weft").write_text("let   a=1\n")
    found = weft("fmt", "untidy.weft", spec, "--check", "--json").json
    assert found == {"changed": ["untidy.weft"], "unchanged": [str(spec)], "errors": []}


def test_new(weft: Callable) -> None:
    found = weft("new", "prices", "--template", "regression", "--json").json
    assert found == {
        "spec": "prices/prices.weft",
        "files": ["prices/prices.weft", "prices/prices.csv"],
    }


def test_graph(weft: Callable, spec: Path) -> None:
    found = weft("graph", spec, "-o", "net.dot", "--json").json
    assert found["path"] == "net.dot"
    assert found["graph"] == "predict"
    assert found["nodes"] > 5
    assert found["edges"] > 5


def test_numbers_that_are_not_finite_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    from weft.cli.output import print_json

    print_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": Path("x")}})
    assert capsys.readouterr().out == '{"a": null, "b": [null, 1.5], "c": {"d": "x"}}\n'
