"""A power cut: what was not yet on the disk is gone or torn, and the ledger holds what it held some transactions ago, whole."""

from __future__ import annotations

import pathlib
import random
import shutil
import sqlite3
import struct
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from orchestrator.ledger import Ledger
from orchestrator.records import Cause
from tests.ledgers import LEASE_S, STUDY, dump, finish, plan, register, rung

HEADER, FRAME = 32, 24 + 4096  # bytes of a write-ahead log
Content = dict[str, list[tuple[Any, ...]]]


def work(ledger: Ledger) -> Iterator[object]:
    """A workload, one transaction at a time."""
    yield ledger.insert_plan(plan(12))
    for round_ in range(4):
        worker = register(ledger, f"w{round_}")
        yield
        leases = ledger.lease(STUDY, worker, 3, lease_s=LEASE_S)
        yield
        for step in range(1, 5):
            yield ledger.record(worker, [rung(lease, step, val_nll=1 / step) for lease in leases])
        yield finish(ledger, worker, leases[:1])
        yield ledger.fail(worker, leases[1].key, leases[1].fence, "it raised")
        yield ledger.event(STUDY, "usage", worker=round_)
        yield ledger.release_dead(STUDY, {worker: Cause.KILLED})
    yield ledger.insert_plan(plan(20, spec={"question": "again?"}))


@pytest.fixture
def checkpoints() -> Generator[None]:
    """The log is copied to the file so often that a short workload has many of these moments."""

    def set_up(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA wal_autocheckpoint = 20")

    sa.event.listen(sa.Pool, "connect", set_up)
    yield
    sa.event.remove(sa.Pool, "connect", set_up)


def cut(log: bytes, synced: int, rng: random.Random) -> bytes:
    """What a disk may hold of a log whose bytes from `synced` on were not flushed: less of it, a torn sector, sectors out of order."""
    if synced >= len(log):
        return log
    place = rng.randrange(synced, len(log))
    match rng.randrange(3):
        case 0:
            return log[:place]
        case 1:
            return log[:place] + bytes([log[place] ^ (1 << rng.randrange(8))]) + log[place + 1 :]
        case _:
            sector = max(synced, place - place % 512)
            return log[:sector] + bytes(min(512, len(log) - sector)) + log[sector + 512 :]


def synced_bytes(path: pathlib.Path) -> int:
    """So much of the log was flushed, for it is in the file already: a checkpoint flushes the log before it touches the file."""
    (frames,) = struct.unpack_from("=I", pathlib.Path(f"{path}-shm").read_bytes(), 96)  # nBackfill of the wal-index
    return HEADER + frames * FRAME


def recovered(folder: pathlib.Path, path: pathlib.Path, log: bytes) -> Content:
    """What the ledger holds after the power is back."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    copy = folder / path.name
    shutil.copy(path, copy)
    pathlib.Path(f"{copy}-wal").write_bytes(log)
    with Ledger.open(copy, create=False) as ledger:
        ledger.trial_records(STUDY) if ledger.study_names() else None
    connection = sqlite3.connect(copy)
    found = [row[0] for row in connection.execute("PRAGMA integrity_check")]
    found += [str(row) for row in connection.execute("PRAGMA foreign_key_check")]
    connection.close()
    assert found == ["ok"]
    return dump(str(copy))


@pytest.mark.usefixtures("checkpoints")
@pytest.mark.parametrize("seed", range(2))
def test_a_power_cut_takes_back_whole_transactions_only(tmp_path: pathlib.Path, seed: int) -> None:
    rng, path, log = random.Random(seed), tmp_path / "ledger.sqlite", tmp_path / "ledger.sqlite-wal"
    lost, resets = set[int](), 0
    with Ledger.open(path) as ledger:
        history, length = [dump(str(path))], 0
        for _ in work(ledger):
            history.append(dump(str(path)))
            synced = synced_bytes(path)
            resets += synced > HEADER
            for _ in range(3):
                content = recovered(tmp_path / "later", path, cut(log.read_bytes(), synced, rng))
                behind = next(back for back, then in enumerate(reversed(history)) if then == content)
                lost.add(behind)
            length = max(length, log.stat().st_size)
    assert {0, 1} <= lost, "some cuts cost something"
    assert resets > 2
    assert length > 20 * FRAME


def test_a_file_that_was_being_copied_to_is_mended_from_its_log(tmp_path: pathlib.Path) -> None:
    """The power goes while the log is copied to the file: any of the file's pages may be torn, and the log is whole."""
    rng, path, log = random.Random(0), tmp_path / "ledger.sqlite", tmp_path / "ledger.sqlite-wal"
    with Ledger.open(path) as ledger:
        for _ in work(ledger):
            pass
        expected, whole = dump(str(path)), log.read_bytes()
        pages = {struct.unpack_from(">I", whole, place)[0] for place in range(HEADER, len(whole), FRAME)}
        for _ in range(20):
            torn = tmp_path / "torn.sqlite"
            content = bytearray(path.read_bytes())
            for page in rng.sample(sorted(pages), len(pages) // 2):
                start = (page - 1) * 4096
                content[start : start + 4096] = rng.randbytes(4096) if start else content[:4096]
            torn.write_bytes(content)
            assert recovered(tmp_path / "later", torn, whole) == expected
