"""The cache of compiled code: equal bytes warm and cold, no compiler when warm, and mishaps."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm", reason="the tvm backend needs apache-tvm (extra `tvm`)")

import weft
from weft.backends.base import NotKept
from weft.backends.tvm import native
from weft.backends.tvm.backend import BACKEND
from weft.backends.tvm.image import from_bytes, image, to_bytes
from weft.backends.tvm.keeper import TvmKeeper
from weft.compiler.graph import Graph
from weft.compiler.parse import parse_graph
from weft.compiler.pipeline import Target, compile_plan
from weft.compiler.plan import Plan
from weft.runtime import executables
from weft.runtime.cache import Cache
from weft.runtime.executables import executable, key_of
from weft.runtime.session import Session, session_for

SPEC = """
data noise {
  x: f32[6, 8]
  y: class[4]
  split = { train: 64 }
}
layer net(x: f32[B, T, D]) {
  x |> lstm(8) |> last |> dense(16) |> dropout(0.5) |> layer_norm |> dense(4)
}
layer last(x: f32[B, T, D]) { x[:, T - 1] }
model m = net()
train {
  data     = noise.batch(8)
  minimize cross_entropy(m(x), y) with adamw(1e-2)
  metrics  = { accuracy: accuracy(m(x), y) }
  clip     = global_norm(1.0)
  epochs   = 2
}
"""

GRAPH = """graph step(state: f32[4], x: f32[batch, 4]) {
  %0 = reduce_sum(x) axes=(0,) : f32[4]
  %1 = add(state, %0) : f32[4]
  return state=%1, sums=%0
}
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """An empty cache in place of the user's."""
    found = Cache(tmp_path / "compiled")
    monkeypatch.setattr(executables, "user_cache", lambda: found)
    return found


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """After a call of it, nothing can be compiled."""

    def refuse(backend: object, plan: Plan) -> None:
        raise AssertionError("compiled")

    return lambda: monkeypatch.setattr(type(BACKEND), "compile", refuse)


def trained() -> dict[str, bytes]:
    """All state after three steps of `SPEC` in a new session, and what the last step gave."""
    session = session_for(weft.load(SPEC).loaded, BACKEND)
    session.initialise(7)
    rng = np.random.default_rng(0)
    found = {}
    for _ in range(3):
        batch = {
            "x": rng.normal(size=(8, 6, 8)).astype(np.float32),
            "y": rng.integers(0, 4, 8),
        }
        found = session.run("train_step", batch, 8)
    return {n: a.tobytes() for n, a in {**session.tensors(), **found}.items()}


def target(batch: int = 3) -> Target:
    return Target({"batch": batch}, abilities=BACKEND.abilities, bound=frozenset({"state"}))


def sums(graph: Graph | None = None) -> np.ndarray:
    """What `GRAPH` makes of a state of ones and rows of ones, by way of the cache."""
    graph = parse_graph(GRAPH) if graph is None else graph
    made = executable(BACKEND, graph, target(), lambda: compile_plan(graph, target()))
    state = {"state": np.ones(4, np.float32)}
    found = made.bind(state)({"x": np.ones((3, 4), np.float32)})
    np.testing.assert_array_equal(found["sums"], np.full(4, 3, np.float32))
    return state["state"]


def entry(cache: Cache) -> Path:
    """The only one."""
    (folder,) = (f for f in cache.root.iterdir() if not f.name.startswith("."))
    return folder


# -- what a warm start gives ----------------------------------------------------------------------


def test_a_warm_start_ends_with_the_bytes_of_a_cold_one(
    cache: Cache, no_compiler: Callable[[], None]
) -> None:
    cold = trained()
    assert cache.count == 2  # the initial state and the step
    no_compiler()
    assert trained() == cold


def test_what_is_not_kept_ends_with_the_same_bytes(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = trained()
    monkeypatch.setattr(native, "_LINKERS", ())
    cache.clear()
    assert trained() == kept
    assert cache.count == 0


START = """
import sys
import numpy as np
import weft
from weft.runtime.backends import backend_named
from weft.runtime.session import session_for

session = session_for(weft.load(sys.stdin.read()).loaded, backend_named("tvm"))
session.initialise(7)
batch = {"x": np.ones((8, 6, 8), np.float32), "y": np.arange(8) % 4}
session.run("train_step", batch, 8)
from hashlib import blake2b
digest = blake2b()
for name, array in session.tensors().items():
    digest.update(name.encode() + array.tobytes())
print(digest.hexdigest(), "tvm" in sys.modules)
"""


def started(folder: Path) -> subprocess.Popen[str]:
    """A process that makes a step of `SPEC`, with its cache in this folder."""
    return subprocess.Popen(
        [sys.executable, "-c", START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "XDG_CACHE_HOME": str(folder)},
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[str, bool]:
    """The hash of the state, and whether the process imported TVM."""
    said, _ = process.communicate(SPEC)
    assert process.returncode == 0
    digest, imported = said.split()
    return digest, imported == "True"


def test_a_warm_process_does_without_tvm(tmp_path: Path) -> None:
    cold, compiled = ended(started(tmp_path))
    warm, compiled_again = ended(started(tmp_path))
    assert (compiled, compiled_again) == (True, False)
    assert warm == cold


def test_processes_that_compile_the_same_at_once_agree(tmp_path: Path) -> None:
    both = [started(tmp_path) for _ in range(2)]
    (first, _), (second, _) = map(ended, both)
    assert first == second
    cache = Cache(tmp_path / "weft" / "compiled")
    assert cache.count == 2
    assert not list(cache.root.glob(".*")), "nothing is left half written"
    assert ended(started(tmp_path)) == (first, False)


def test_the_code_is_the_same_however_many_threads_compile_it() -> None:
    plan = session_for(weft.load(SPEC).loaded, BACKEND).plan("train_step", 8)
    made = set()
    try:
        for threads in (1, 3):
            weft.use_threads(threads)
            made.add(BACKEND.compile(plan).library())
    finally:
        weft.use_threads(None)
    assert len(made) == 1


def test_compiling_imports_no_pytorch(tmp_path: Path) -> None:
    """TVM would; here another package of that name, which says so, is all that can be found."""
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("print('PyTorch is imported')")
    done = subprocess.run(
        [sys.executable, "-c", START + "import torch\n"],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": _path_with(tmp_path)},
        input=SPEC,
        capture_output=True,
        text=True,
        check=True,
    )
    compiled, imported = done.stdout.splitlines()
    assert compiled.endswith(" True")
    assert imported == "PyTorch is imported"


def _path_with(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


# -- what an entry is of --------------------------------------------------------------------------


def key(text: str = GRAPH, batch: int = 3, target: Target | None = None) -> str:
    graph = parse_graph(text)
    sized = Target({"batch": batch}, bound=frozenset({"state"}))
    return key_of(BACKEND, graph, sized if target is None else target)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: key(batch=4), id="batch size"),
        pytest.param(lambda: key(GRAPH.replace("f32", "f64")), id="element type"),
        pytest.param(lambda: key(GRAPH.replace("4]", "5]")), id="shape"),
        pytest.param(lambda: key(GRAPH.replace("add", "multiply")), id="op"),
        pytest.param(lambda: key(GRAPH.replace("sums=", "total=")), id="name of an output"),
        pytest.param(lambda: key(GRAPH.replace("state", "other")), id="name of a state"),
        pytest.param(lambda: key(target=Target({"batch": 3})), id="what is bound"),
    ],
)
def test_other_code_has_another_key(other: Callable[[], str]) -> None:
    assert other() != key()


def test_attributes_are_part_of_the_key() -> None:
    text = """graph f(x: f32[4, 4]) {{
  %0 = reduce_sum(x) axes=({},) : f32[4]
  return y=%0
}}
"""
    assert key(text.format(0)) != key(text.format(1))


def test_another_machine_has_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    here = key()
    monkeypatch.setattr(TvmKeeper, "identity", lambda self: "another processor")
    assert key() != here


def test_the_place_in_a_spec_is_not_part_of_the_key() -> None:
    here, further_down = (
        weft.load(text).loaded.program.train_step for text in (SPEC, "# A comment.\n" + SPEC)
    )
    assert {n.span for n in here.nodes} != {n.span for n in further_down.nodes}
    sized = Target({"batch": 8})
    assert key_of(BACKEND, here, sized) == key_of(BACKEND, further_down, sized)


def test_an_image_reads_back_as_it_was(cache: Cache) -> None:
    session = session_for(weft.load(SPEC).loaded, BACKEND)
    compiled = BACKEND.compile(session.plan("train_step", 8))
    found = compiled.image
    again = from_bytes(to_bytes(found))
    assert to_bytes(again) == to_bytes(found)
    assert (again.slots, again.outputs, again.stores) == (found.slots, found.outputs, found.stores)
    assert (again.states, again.inputs) == (found.states, found.inputs)
    assert image(compiled.plan, compiled.program.slots).slots == again.slots


def test_every_form_of_code_that_is_announced_can_be_shown() -> None:
    """The names stand in the backend, which must not import what makes them."""
    from weft.backends.tvm.listing import FORMS

    assert tuple(FORMS) == BACKEND.forms


def test_draws_under_other_names_are_the_same_code() -> None:
    """Each stream's name is data, so that parameters of one shape share one kernel."""
    spec = """
layer net(x: f32[B, D]) { x |> dense(8) |> dense(8) |> dense(8) }
data d {
  x: f32[8]
  split = { train: 8 }
}
model m = net()
train {
  data     = d.batch(4)
  minimize mean(m(x) ^ 2) with sgd(0.1)
  epochs   = 1
}
"""
    session = session_for(weft.load(spec).loaded, BACKEND)
    program = BACKEND.compile(session.plan("init")).program
    drawn = [key for key in program.functions if "bits(" in key]
    assert len([1 for _, kernel in program.calls if kernel.nodes]) >= 3
    assert len(drawn) == 1
    session.initialise(3)
    weights = [a for n, a in session.tensors().items() if n.endswith(".w")]
    assert len({a.tobytes() for a in weights}) == len(weights) == 3


# -- mishaps --------------------------------------------------------------------------------------


def _replace(file: Path, content: bytes) -> None:
    """Another file of that name: this process may run what is in the old one."""
    file.unlink()
    file.write_bytes(content)


def _cut(file: Path) -> None:
    _replace(file, file.read_bytes()[:-20])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    _replace(file, bytes(content))


@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink], ids=["cut", "flipped", "gone"])
@pytest.mark.parametrize("name", ["step.so", "image", "manifest.json"])
def test_a_damaged_entry_is_made_anew(
    cache: Cache, name: str, damage: Callable[[Path], None]
) -> None:
    before = sums()
    damage(entry(cache) / name)
    np.testing.assert_array_equal(sums(), before)
    assert cache.get(entry(cache).name) == entry(cache)


def test_a_manifest_that_is_no_mapping_is_damage(cache: Cache) -> None:
    sums()
    (entry(cache) / "manifest.json").write_text("[]")
    sums()
    assert cache.get(entry(cache).name) == entry(cache)


def test_a_library_that_cannot_be_loaded_is_made_anew(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = native.library
    monkeypatch.setattr(native, "library", lambda modules, target: b"no library")
    before = sums()  # runs what was compiled
    assert cache.count == 0
    assert cache.problem is not None
    monkeypatch.setattr(native, "library", real)
    np.testing.assert_array_equal(sums(), before)
    assert cache.count == 1


def test_without_a_linker_it_works_and_says_why_nothing_is_kept(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_LINKERS", ())
    sums()
    (warning,) = executables.warnings(BACKEND)
    assert warning.severity == "warning"
    assert warning.found == "no linker"
    assert "C compiler" in (warning.hint or "")
    assert not list(cache.root.iterdir())


def test_a_folder_that_cannot_be_made_is_no_cache(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "file").write_text("")
    cache.root = tmp_path / "file" / "compiled"
    sums()
    (warning,) = executables.warnings(BACKEND)
    assert str(cache.root) in (warning.found or "")


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are those of POSIX")
def test_a_folder_that_others_may_write_to_is_not_trusted(cache: Cache) -> None:
    sums()
    cache.root.chmod(0o770)
    assert cache.get(entry(cache).name) is None
    assert cache.problem is not None
    assert cache.problem.hint is not None
    cache.root.chmod(0o700)
    assert cache.get(entry(cache).name) is not None


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are those of POSIX")
def test_a_folder_of_another_user_is_not_trusted(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums()
    monkeypatch.setattr(os, "getuid", lambda: cache.root.stat().st_uid + 1)
    assert cache.get(entry(cache).name) is None


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are those of POSIX")
def test_nobody_else_may_read_or_write(cache: Cache) -> None:
    sums()
    assert cache.root.stat().st_mode & 0o777 == 0o700
    assert entry(cache).stat().st_mode & 0o777 == 0o700


# -- size -----------------------------------------------------------------------------------------


def _put(cache: Cache, name: str, size: int = 1000, age: float = 0) -> None:
    folder = cache.put(name, lambda folder: (folder / "data").write_bytes(bytes(size)) and None)
    if folder is not None:
        then = time.time() - age
        os.utime(folder, (then, then))


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "compiled", limit=4000)
    for age, name in ((30, "a"), (20, "b"), (10, "c")):
        _put(cache, name, age=age)
    assert cache.get("a") is not None  # now it was used last
    _put(cache, "d")
    assert [cache.get(name) is not None for name in "abcd"] == [True, False, True, True]
    assert cache.size <= cache.limit


def test_the_newest_entry_stays_however_large(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "compiled", limit=10)
    _put(cache, "a")
    assert cache.get("a") is not None


def test_what_killed_processes_left_goes_after_a_day(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "compiled")
    _put(cache, "a")
    old, new = cache.root / ".new-old", cache.root / ".new-new"
    old.mkdir()
    new.mkdir()
    os.utime(old, (0, 0))
    _put(cache, "b")
    assert not old.exists()
    assert new.exists()
    assert cache.count == 2


def test_clear_removes_every_entry(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "compiled")
    _put(cache, "a")
    _put(cache, "b")
    assert (cache.count, cache.size > 2000) == (2, True)
    cache.clear()
    assert (cache.count, cache.size) == (0, 0)


def test_a_writer_that_gives_up_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "compiled")

    def write(folder: Path) -> None:
        (folder / "data").write_bytes(b"half")
        raise NotKept("no reason")

    assert cache.put("a", write) is None
    assert not list(cache.root.iterdir())


def test_a_session_is_of_one_state(cache: Cache) -> None:
    """Two sessions that share the code of a step share nothing else."""

    def session() -> Session:
        found = session_for(weft.load(SPEC).loaded, BACKEND)
        found.initialise(1)
        return found

    one, other = session(), session()
    batch = {"x": np.ones((8, 6, 8), np.float32), "y": np.arange(8) % 4}
    one.run("train_step", batch, 8)
    assert int(one.tensors()["step"]) == 1
    assert int(other.tensors()["step"]) == 0
    other.run("train_step", batch, 8)
    for name, array in one.tensors().items():
        np.testing.assert_array_equal(array, other.tensors()[name], err_msg=name)
