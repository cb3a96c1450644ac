"""A program that another process traced is the program that this one would trace: same bits, same entry in XLA's cache."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import pickletools
import re
import subprocess
import sys
import zlib
from collections.abc import Generator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import disks
from trainers import aot, backend

ROOT = pathlib.Path(__file__).parents[2]


class Both(NamedTuple):
    """A node of a tree that jax cannot serialise by itself."""

    inner: Any
    count: jax.Array


@jax.custom_vjp
def cube(x: jax.Array) -> jax.Array:
    return x**3


cube.defvjp(lambda x: (cube(x), x), lambda x, g: (g * 3 * x**2,))


def everything(state: Both, key: jax.Array) -> tuple[Both, list[jax.Array], None]:
    """All that the training step is made of: a typed key, a custom gradient, a choice by platform, a loop of traced length."""
    noise = jax.random.normal(jax.random.fold_in(jax.random.wrap_key_data(key), state.count), (3,))
    gradient = jax.grad(lambda x: jnp.sum(cube(x)))(state.inner["w"]) + noise
    here = jax.lax.platform_dependent(gradient, cpu=lambda x: x + 1, default=lambda x: x - 1)
    moved = jax.lax.fori_loop(0, state.count, lambda _, w: w - 0.1 * here, state.inner["w"])
    return Both({"w": moved, "fixed": None}, state.count + 1), [gradient], None


def arguments() -> tuple[Both, jax.Array]:
    return Both({"w": jnp.arange(3.0), "fixed": None}, jnp.int32(2)), jnp.array([0, 7], jnp.uint32)


def bits(tree: Any) -> str:
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(aot.OFF, raising=False)
    return aot.folder()


def never(*_: Any) -> Any:
    pytest.fail("it was traced, although it is kept")


def kept(cache: pathlib.Path) -> list[pathlib.Path]:
    return sorted(cache.glob("*"))


def test_a_kept_program_gives_the_same_tree_and_bits_without_being_traced(cache: pathlib.Path) -> None:
    first = aot.traced("all", "f", everything, *arguments())
    [file] = kept(cache)
    second = aot.traced("all", "f", never, *arguments())
    assert kept(cache) == [file]
    assert jax.tree.structure(first.out) == jax.tree.structure(second.out) == jax.tree.structure(everything(*arguments()))
    results = [program.compiled(*arguments())(*arguments()) for program in (first, second)]
    assert bits(results[0]) == bits(results[1]) == bits(jax.jit(everything)(*arguments()))
    assert isinstance(results[1][0], Both)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), second.out) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), results[1]
    )


def test_a_program_that_was_just_traced_is_the_one_that_a_later_process_reads(cache: pathlib.Path) -> None:
    """Compared as the text that XLA is given, from which it makes the key of its own cache."""
    texts = [jax.jit(aot.traced("all", "f", everything, *arguments()).call).lower(*arguments()).as_text() for _ in range(2)]
    assert texts[0] == texts[1]
    assert "module @jit_all" in texts[0]


def test_the_memory_of_a_donated_argument_is_taken(cache: pathlib.Path) -> None:
    state, key = arguments()
    aot.traced("all", "f", everything, state, key).compiled(state, key, donate=0)(state, key)
    assert state.inner["w"].is_deleted()
    assert not key.is_deleted()


def test_options_reach_the_compiler(cache: pathlib.Path) -> None:
    program = aot.traced("all", "f", everything, *arguments())
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        program.compiled(*arguments(), options={"no_such_option": 1})


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "foreign", "of another key", "not what jax reads"])
def test_a_damaged_file_is_passed_over_and_written_anew(cache: pathlib.Path, damage: str) -> None:
    expected = bits(aot.traced("all", "f", everything, *arguments()).compiled(*arguments())(*arguments()))
    [file] = kept(cache)
    good = file.read_bytes()
    key = file.stem.rpartition("-")[2]
    body = b"null\nnothing"
    file.write_bytes(
        {
            "cut": good[:-9],
            "empty": b"",
            "flipped": good[:-1] + bytes([good[-1] ^ 1]),
            "foreign": b"\x80\x04K\x01.",
            "of another key": good.replace(key.encode(), b"0" * len(key)),
            "not what jax reads": aot.MAGIC + f"{key}\n{hashlib.sha256(body).hexdigest()}\n".encode() + body,
        }[damage]
    )
    again = aot.traced("all", "f", everything, *arguments())
    assert bits(again.compiled(*arguments())(*arguments())) == expected
    assert kept(cache) == [file]
    aot.traced("all", "f", never, *arguments())


def test_what_decides_a_program_decides_its_file(cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def double(x: jax.Array) -> jax.Array:
        return x * 2

    def names() -> set[str]:
        return {path.name for path in kept(cache)}

    changes = [
        lambda: aot.traced("double", "f", double, np.zeros(3, np.float32)),
        lambda: aot.traced("double", "g", double, np.zeros(3, np.float32)),
        lambda: aot.traced("double", "f", double, np.zeros(4, np.float32)),
        lambda: aot.traced("double", "f", double, np.zeros(3, np.int32)),
        lambda: aot.traced("twice", "f", double, np.zeros(3, np.float32)),
    ]
    for number, change in enumerate(changes, start=1):
        change()
        assert len(names()) == number
    aot.surroundings.cache_clear()
    monkeypatch.setattr(aot, "SOURCES", "edited")
    aot.traced("double", "f", double, np.zeros(3, np.float32))
    assert len(names()) == len(changes) + 1
    aot.surroundings.cache_clear()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    aot.traced("double", "f", double, np.zeros(3, np.float32))
    assert len(names()) == len(changes) + 2
    aot.surroundings.cache_clear()


def test_an_edit_a_new_file_and_a_new_name_each_change_the_hash_of_the_sources(tmp_path: pathlib.Path) -> None:
    package = tmp_path / "package"
    (package / "models").mkdir(parents=True)
    (package / "models" / "a.py").write_text("x = 1\n")
    hashes = [aot.source_hash(package)]
    (package / "models" / "a.py").write_text("x = 2\n")
    hashes.append(aot.source_hash(package))
    (package / "b.py").write_text("")
    hashes.append(aot.source_hash(package))
    (package / "b.py").rename(package / "c.py")
    hashes.append(aot.source_hash(package))
    assert len(set(hashes)) == 4
    (package / "notes.txt").write_text("no code")
    assert aot.source_hash(package) == hashes[-1]


def test_every_module_of_the_orchestrator_that_trainers_run_is_in_the_hash() -> None:
    known, new = set(), {"contract"}
    while new:
        known |= new
        texts = [(ROOT / "orchestrator" / f"{name}.py").read_text() for name in new]
        new = {name for text in texts for name in re.findall(r"^ *from orchestrator\.(\w+) import", text, re.MULTILINE)} - known
    assert {f"{name}.py" for name in known} == set(aot.SHARED_SOURCES)


def test_a_function_that_cannot_be_exported_is_traced_each_time(cache: pathlib.Path) -> None:
    def called_back(x: jax.Array) -> jax.Array:
        return jax.pure_callback(lambda v: np.asarray(v) + 1, jax.ShapeDtypeStruct((), jnp.float32), x)

    program = aot.traced("called_back", "f", called_back, np.float32(1))
    assert float(program.compiled(np.float32(1))(np.float32(1))) == 2
    assert kept(cache) == []


def test_a_folder_that_cannot_be_written_costs_a_warning(cache: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file, where the folder would be")
    program = aot.traced("all", "f", everything, *arguments())
    assert program.compiled(*arguments())(*arguments())
    assert "a traced program is not kept for later workers" in caplog.text


def test_the_oldest_go_when_there_are_too_many(cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aot, "MOST_FILES", 2)
    for number in range(4):
        aot.traced(f"p{number}", "f", lambda x: x + 1, np.float32(0))
        for path in kept(cache):
            os.utime(path, (number + int(path.name[1]), number + int(path.name[1])))
    assert [path.name[:2] for path in kept(cache)] == ["p2", "p3"]
    monkeypatch.setattr(aot, "MOST_BYTES", kept(cache)[0].stat().st_size + 1)
    aot.traced("p4", "f", lambda x: x + 1, np.float32(0))
    assert [path.name[:2] for path in kept(cache)] == ["p4"]


def test_nothing_kept_is_a_pickle_and_nothing_that_reads_it_can_unpickle(cache: pathlib.Path) -> None:
    aot.traced("all", "f", everything, *arguments())
    [file] = kept(cache)
    content = file.read_bytes()
    header = content.removeprefix(aot.MAGIC).split(b"\n", 3)[2]
    assert json.loads(header)["tuple"][0]["class"].endswith(":Both")
    with pytest.raises(ValueError, match="invalid literal"):
        list(pickletools.genops(content))
    source = (ROOT / "trainers" / "aot.py").read_text()
    assert not [word for word in ("import pickle", "import dill", "cloudpickle", "marshal", "serialize_executable") if word in source]


# XLA's own cache, whose entries JAX writes in place.


@pytest.fixture
def entry(tmp_path: pathlib.Path) -> Generator[pathlib.Path]:
    """A folder of XLA's cache with one whole entry, written by JAX."""
    place = tmp_path / "xla"
    former = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()
    jax.jit(lambda x: x + 41.5).lower(np.float32(1)).compile()
    [found] = place.glob("*-cache")
    yield found
    jax.config.update("jax_compilation_cache_dir", former)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()


def aged(path: pathlib.Path, seconds: float) -> None:
    os.utime(path, (path.stat().st_mtime - seconds,) * 2)


def test_a_torn_entry_is_removed_and_a_whole_one_stays(entry: pathlib.Path) -> None:
    torn = [entry.with_name("cut-cache"), entry.with_name("empty-cache")]
    for path, content in zip(torn, (entry.read_bytes()[:-7], b""), strict=True):
        path.write_bytes(content)
        aged(path, 60)
    aged(entry, 60)
    assert sorted(backend.drop_torn(entry.parent)) == torn
    assert entry.exists()
    assert backend.drop_torn(entry.parent) == []


def test_an_entry_that_may_still_be_written_waits_for_the_next_look(entry: pathlib.Path) -> None:
    growing = entry.with_name("growing-cache")
    growing.write_bytes(entry.read_bytes()[:-7])
    assert backend.drop_torn(entry.parent, settled_s=60) == []
    assert backend.drop_torn(entry.parent, settled_s=0) == [growing]


def test_jax_reads_what_stays_and_writes_what_went(entry: pathlib.Path) -> None:
    """The premise: a torn entry stays for ever, with a warning at each reading."""
    good = entry.read_bytes()
    entry.write_bytes(good[:-7])
    for _ in range(2):
        jax.clear_caches()
        with pytest.warns(UserWarning, match="Error reading persistent compilation cache entry"):
            jax.jit(lambda x: x + 41.5).lower(np.float32(1)).compile()
    assert entry.read_bytes() == good[:-7]
    assert backend.drop_torn(entry.parent, settled_s=0) == [entry]
    jax.clear_caches()
    jax.jit(lambda x: x + 41.5).lower(np.float32(1)).compile()
    assert entry.exists()


def test_an_entry_that_changed_on_the_disk_is_found_within_a_day(entry: pathlib.Path) -> None:
    aged(entry, 60)
    assert backend.drop_torn(entry.parent) == []
    disks.flip(entry)
    aged(entry, 60)
    assert backend.drop_torn(entry.parent) == [], "what was seen whole is not read at every start"
    aged(entry.with_name("tessera-looked-at-all"), backend.EVERY_S + 1)
    assert backend.drop_torn(entry.parent) == [entry]


def test_entries_are_packed_with_a_checksum_whatever_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from jax._src import compilation_cache

    assert {"zstd", "zstandard"} <= vars(compilation_cache).keys(), "jax has renamed what `pack_with_zlib` switches off"
    monkeypatch.setattr(compilation_cache, "zstd", None)
    monkeypatch.setattr(compilation_cache, "zstandard", object())
    backend.pack_with_zlib()
    packed = bytearray(compilation_cache.compress_executable(b"program" * 99))
    packed[-20] ^= 1
    with pytest.raises(zlib.error, match=r"Error -[35]"):
        compilation_cache.decompress_executable(bytes(packed))


def test_a_cache_that_is_not_there_is_none() -> None:
    assert backend.drop_torn(pathlib.Path("/no/such/folder")) == []


# A real trainer.

TRAIN = """
import hashlib, json, pathlib, sys
import jax, numpy as np
import orchestrator.worker
from tests.trainers.scripted import TINY_VISION, ScriptedHost, lane
from trainers import backend
from trainers.vision import WIDTH, Vision
backend.prepare()
if sys.argv[1] == "warm":
    def refused(*_): raise RuntimeError("it is traced again")
    jax.export.export = refused
from trainers.pack import make_pack
from trainers.packing import default
from trainers.programs import signature
trainer, folder = Vision(), pathlib.Path(sys.argv[2])
one = lane(trainer, folder, TINY_VISION, seed=3)
pack = make_pack(one.config, signature(one.config, f"{trainer.name} {trainer.version}"), default(WIDTH))
pack.enter(1, one.config, one.seed, None)
pack.advance({1: 4})
leaves = jax.tree.leaves(pack.states([1]))
host = ScriptedHost([one])
trainer.train(host)
print(json.dumps({
    "state": hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest(),
    "metrics": host.finals()[one.key],
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
}))
"""

# Those that write reports, ask for samples or launch, and those that would take a worker seconds to import.
NOT_A_WORKERS = {"tensorflow", "sklearn", "pandas", "optuna", "wandb", "xmanager", "altair", "torch", "matplotlib", "alembic", "grain"}


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process that traces says, and then one that reads; and XLA's and our entries after each of them."""
    shared = tmp_path_factory.mktemp("shared")
    said: dict[str, Any] = {}
    for kind in ("cold", "warm"):
        done = subprocess.run(
            [sys.executable, "-c", TRAIN, kind, str(shared / kind)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(shared)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        said[kind] = json.loads(done.stdout)
        said[f"{kind} entries"] = {path.name for path in shared.rglob("*") if path.name.endswith((".export", "-cache"))}
    return said


def test_a_worker_that_traces_and_one_that_reads_compute_the_same(workers: dict[str, Any]) -> None:
    assert workers["warm"]["state"] == workers["cold"]["state"]
    assert workers["warm"]["metrics"] == workers["cold"]["metrics"]


def test_what_was_read_is_to_xla_the_program_that_was_traced(workers: dict[str, Any]) -> None:
    assert workers["warm entries"] - workers["cold entries"] == set()


def test_training_imports_neither_tensorflow_nor_anything_else_that_it_does_without(workers: dict[str, Any]) -> None:
    assert {"jax", "tensorflow_datasets", "sqlalchemy"} <= set(workers["warm"]["modules"])
    assert not NOT_A_WORKERS & (set(workers["cold"]["modules"]) | set(workers["warm"]["modules"]))
