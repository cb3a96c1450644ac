"""A bad disk costs work, never a wrong result: every kind of file that is read again, cut short and flipped at every byte of its end.

What a damaged file gives is what it held, or what its kind gives without it: the checkpoint before, or none. Never other
content, and never an exception that is not the documented one.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import zlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.contract import DataError, Lane, flatten
from orchestrator.durable import DamagedError, read_row, unsealed, write_row, write_whole
from orchestrator.executors.base import WorkerSpec
from orchestrator.executors.store import UnitRecord, UnitStore
from orchestrator.executors.watch import read_claim, read_exit, write_claim, write_exit
from orchestrator.report import files
from orchestrator.report.figures.chart import Figure
from orchestrator.trackers import JsonLinesTracker, StudyHeader, jsonlines
from orchestrator.trackers.payload import payload_of
from orchestrator.trackers.published import Copies, Place
from tests.studyrecords import study_record
from trainers import aot, backend, checkpoint, curves, predictions, sealed
from trainers.curves import CurvesConfig

TAIL = 4096  # bytes: every one of them is cut at and flipped


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of file.

    Attributes:
        name: Of the kind.
        write: Writes what is to be read, and more where it has to fall back on that; returns the file that is damaged.
        read: What its reader makes of it, as a value to compare.
        instead: What it may say of a damaged file, beside the truth.
    """

    name: str
    write: Callable[[pathlib.Path], pathlib.Path]
    read: Callable[[pathlib.Path], Any]
    instead: Collection[Any] = (None,)

    def __str__(self) -> str:
        return self.name


def made(step: int) -> checkpoint.Checkpoint:
    arrays = {
        "params/head/kernel": np.arange(120, dtype=np.float32).reshape(30, 4) * step,
        "momentum": np.full(7, step, ml_dtypes.bfloat16),
        "step": np.asarray(step, np.int32),
        "key": np.array([1, 2], np.uint32),
    }
    return checkpoint.Checkpoint(key="lane", program=f"cpu · solo × {step}", arrays=arrays)


def write_checkpoints(folder: pathlib.Path) -> pathlib.Path:
    checkpoint.save(folder, made(1))
    checkpoint.save(folder, made(2))
    return folder / checkpoint.LATEST


def read_checkpoint(path: pathlib.Path) -> Any:
    found = checkpoint.load(path.parent, "lane")
    return None if found is None else (found.key, found.program, checkpoint.content_hash(found.arrays))


def what(step: int) -> Any:
    return ("lane", made(step).program, checkpoint.content_hash(made(step).arrays))


def write_arrays(folder: pathlib.Path) -> pathlib.Path:
    write_whole(folder / "arrays", *sealed.seal(made(1).arrays, {"key": "lane", "program": 'with "quotes" and "sha256":"'}).parts)
    return folder / "arrays"


def read_words(path: pathlib.Path) -> Any:
    try:
        return sorted(sealed.words_of(path).items())
    except DamagedError:
        return None


def write_predictions(folder: pathlib.Path) -> pathlib.Path:
    said = np.linspace(-9, 0, 120, dtype=np.float32).reshape(2, 12, 5)
    labels = np.arange(12, dtype=np.int32) % 5
    arrays = {"val/log_probabilities": said, "test/log_probabilities": said + 1, "val/labels": labels, "test/labels": labels}
    return folder / predictions.save(folder, "lane", arrays)


def read_predictions(path: pathlib.Path) -> Any:
    try:
        return checkpoint.content_hash(predictions.load(path, "lane"))
    except DataError:
        return None


STUDY = study_record(replicates=2, tune_trials=1, rungs=3)
HEADER, TRIALS = StudyHeader.of(STUDY), STUDY.trials[:4]
CURVE = Lane(key="lane", config=flatten(CurvesConfig()), seed=1, folder=pathlib.Path())


def write_curve(folder: pathlib.Path) -> pathlib.Path:
    curve = curves._Curve.opened(dataclasses.replace(CURVE, folder=folder))
    curve.advance()
    curve.save()
    return curve.file


def read_curve(path: pathlib.Path) -> Any:
    curve = curves._Curve.opened(dataclasses.replace(CURVE, folder=path.parent))
    return curve.step, curve.nll


def write_unit(folder: pathlib.Path) -> pathlib.Path:
    spec = WorkerSpec(identity="tiling/worker-0-a1", argv=("python", "-m", "worker"), log=folder / "log", folder=folder)
    record = UnitRecord(number=1, spec=spec, launcher=("here", 7, "then"), handle='{"pid": 8}')
    UnitStore(folder).write(record)
    [path] = folder.glob("*.unit.json")
    return path


def read_unit(path: pathlib.Path) -> Any:
    return UnitStore(path.parent).read()


def write_one(write: Callable[[pathlib.Path], None]) -> Callable[[pathlib.Path], pathlib.Path]:
    def written(folder: pathlib.Path) -> pathlib.Path:
        write(folder / "record.json")
        return folder / "record.json"

    return written


def write_program(folder: pathlib.Path) -> pathlib.Path:
    aot._write(folder / "a.export", "key", bytes(range(256)) * 8)
    return folder / "a.export"


def write_entry(folder: pathlib.Path) -> pathlib.Path:
    (folder / "jit_step-cache").write_bytes(zlib.compress(bytes(range(256)) * 8))
    return folder / "jit_step-cache"


def read_entry(path: pathlib.Path) -> Any:
    """As JAX reads what is left."""
    backend.drop_torn(path.parent, settled_s=-1)
    return zlib.decompress(path.read_bytes()) if path.exists() else None


def read_result(path: pathlib.Path) -> Any:
    try:
        return read_row(path)
    except DamagedError:
        return None


FIGURE = Figure(
    name="effects",
    section="effects",
    title="Effects",
    caption="",
    alt="a point",
    spec={"data": {"values": [{"x": 1}]}, "mark": "point", "encoding": {"x": {"field": "x"}}, "width": 20, "height": 20},
)


def write_figure(suffix: str) -> Callable[[pathlib.Path], pathlib.Path]:
    def written(folder: pathlib.Path) -> pathlib.Path:
        files._draw(FIGURE, folder)
        return folder / f"effects.{suffix}"

    return written


def read_figure(path: pathlib.Path) -> Any:
    """The figure as it gets into the page, unless it is to be drawn again."""
    return files._sound(files._key(FIGURE), files._paths(FIGURE, path.parent))


def read_report(path: pathlib.Path) -> Any:
    """A file of text, after the next report."""
    files._put(path, b"a report\n" * 20)
    return path.read_bytes()


def write_published(folder: pathlib.Path) -> pathlib.Path:
    Copies(folder).add(payload_of(HEADER, TRIALS[0]), Place.ONLINE)
    return folder / "published.jsonl"


KINDS = (
    Kind(name="checkpoint", write=write_checkpoints, read=read_checkpoint, instead=(what(1),)),
    Kind(
        name="how a lane was run",
        write=write_checkpoints,
        read=lambda path: checkpoint.program_of(path.parent, "lane"),
        instead=(made(1).program,),
    ),
    Kind(name="words of an array file", write=write_arrays, read=read_words),
    Kind(name="predictions", write=write_predictions, read=read_predictions),
    Kind(name="curve", write=write_curve, read=read_curve, instead=((0, curves.START),)),
    Kind(name="unit record", write=write_unit, read=read_unit, instead=([],)),
    Kind(name="exit record", write=write_one(lambda path: write_exit(path, code=3, stopped=True)), read=read_exit),
    Kind(name="claim", write=write_one(write_claim), read=read_claim),
    Kind(name="result", write=write_one(lambda path: write_row(path, {"nll": 0.25, "of": "E³"})), read=read_result),
    Kind(name="compiled program", write=write_entry, read=read_entry),
    *(Kind(name=f"figure as {suffix}", write=write_figure(suffix), read=read_figure) for suffix in ("svg", "png", "pdf")),
    Kind(name="report", write=write_one(read_report), read=read_report, instead=()),
    Kind(name="what W&B has", write=write_published, read=lambda path: tuple(Copies(path.parent).of(TRIALS[0].key)), instead=((),)),
    Kind(name="traced program", write=write_program, read=lambda path: aot._read(path, "key")),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fixture:
    """One kind's files on disk, whole, and what is read from them."""

    kind: Kind
    path: pathlib.Path
    files: dict[pathlib.Path, bytes]
    truth: Any
    stamps: dict[pathlib.Path, tuple[int, int, int]] = dataclasses.field(default_factory=dict)

    @property
    def whole(self) -> bytes:
        return self.files[self.path]

    def check(self, damaged: bytes) -> None:
        """Reads the damaged file as the kind's reader does, with all that lay beside it."""
        self.restore()
        self.path.write_bytes(damaged)
        found = self.kind.read(self.path)
        assert found == self.truth or found in self.kind.instead, f"{self.kind}: {found!r}"

    def restore(self) -> None:
        """Puts every file back that is not as it was: most readers touch none."""
        here = {path: stamp(path) for path in self.path.parent.iterdir() if path.is_file()}
        for path in here.keys() - self.files.keys():
            path.unlink()
        for path in [path for path in self.files if path != self.path and here.get(path) != self.stamps.get(path)]:
            path.write_bytes(self.files[path])
            self.stamps[path] = stamp(path)


def stamp(path: pathlib.Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


@pytest.fixture(params=KINDS, ids=str)
def written(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Fixture]:
    kind: Kind = request.param
    path = kind.write(tmp_path)
    files = {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    truth = kind.read(path)
    assert truth not in kind.instead, "the whole file is read"
    logging.disable(logging.CRITICAL)  # thousands of warnings
    yield Fixture(kind=kind, path=path, files=files, truth=truth)
    logging.disable(logging.NOTSET)


def test_a_file_cut_anywhere_in_its_last_4_kib_costs_no_wrong_result(written: Fixture) -> None:
    for length in range(max(0, len(written.whole) - TAIL), len(written.whole)):
        written.check(written.whole[:length])


def test_a_bit_flipped_anywhere_in_the_last_4_kib_costs_no_wrong_result(written: Fixture) -> None:
    for place in range(max(0, len(written.whole) - TAIL), len(written.whole)):
        damaged = bytearray(written.whole)
        damaged[place] ^= 1 << place % 8
        written.check(bytes(damaged))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_bytes_changed_anywhere_cost_no_wrong_result(written: Fixture, data: st.DataObject) -> None:
    damaged = bytearray(written.whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    written.check(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]) if data.draw(st.booleans()) else bytes(damaged))


def publish(folder: pathlib.Path, *numbers: int) -> list[str]:
    """From a process that starts anew; what it warns of."""
    warnings: list[str] = []
    tracker = JsonLinesTracker(folder, warn=warnings.append)
    tracker.open(HEADER)
    for number in numbers:
        assert tracker.publish(TRIALS[number])
    return warnings


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The file of three trials, a line each."""
    folder = tmp_path_factory.mktemp("lines")
    assert publish(folder, 0, 1, 2) == []
    return (folder / "trials.jsonl").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_line_costs_that_line_only_and_never_the_next_one(tmp_path: pathlib.Path, lines: list[bytes], damage: str) -> None:
    whole, path = b"".join(lines), tmp_path / "trials.jsonl"
    truth = [unsealed(line) for line in lines]
    ends = [sum(map(len, lines[: number + 1])) for number in range(3)]
    for place in range(max(0, len(whole) - TAIL), len(whole)):
        damaged = whole[:place] if damage == "cut" else whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        path.write_bytes(damaged)
        # Of a line that is cut, all but its end may be there; a line whose end is flipped runs into the next one.
        hurt = (
            [place < end for end in ends]
            if damage == "cut"
            else [end - len(line) - 1 <= place < end for end, line in zip(ends, lines, strict=True)]
        )
        sound = [unsealed(line) for line, is_hurt in zip(lines, hurt, strict=True) if not is_hurt]
        found = list(jsonlines._read(path)[0].values())
        assert [row for row in map(unsealed, found) if row in sound] == sound
        assert all(row in truth for row in map(unsealed, found))
        if place % 50 == 0:  # as a whole, which waits for the disk
            publish(tmp_path, 3)
            kept = path.read_bytes().splitlines()
            assert kept[:-1] == found
            assert unsealed(kept[-1])["key"] == TRIALS[3].key
