"""How studies were run: when workers began and ended, where the time of their packs went, what was expected of a run."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa

from orchestrator.ledger.codec import to_json, to_strings
from orchestrator.ledger.schema import attempts, events, workers
from orchestrator.records import PackRecord, RunRecord, WorkerRecord

RUN, ENDED, USAGE = "run", "run ended", "usage"

_EVENTS = (
    sa.select(events.c.at, events.c.kind, events.c.payload)
    .where(events.c.study == sa.bindparam("study"), events.c.kind.in_((RUN, ENDED, USAGE)))
    .order_by(events.c.id)
)
_WORKERS = (
    sa.select(workers.c.id, sa.func.min(attempts.c.leased_at).label("leased_at"), workers.c.ended_at, workers.c.exit_code)
    .join_from(attempts, workers)
    .where(workers.c.study == sa.bindparam("study"))
    .group_by(workers.c.id, workers.c.ended_at, workers.c.exit_code)
    .order_by(sa.text("leased_at"), workers.c.id)
)
_PROVENANCE = (
    sa.select(attempts.c.provenance)
    .join_from(attempts, workers)
    .where(workers.c.host == sa.bindparam("host"), attempts.c.provenance != "{}")
    .order_by(attempts.c.ended_at.desc())
    .limit(1)
)
_LAST_ENDED = sa.select(events.c.payload).where(events.c.kind == ENDED).order_by(events.c.id.desc()).limit(20)
_OF_PACK = [field.name for field in dataclasses.fields(PackRecord) if field.name != "ended_s"]


def run_records(connection: sa.Connection, study: str) -> tuple[RunRecord, ...]:
    """The study's runs that had something to train, oldest first. A worker belongs to the run in which it was first given work."""
    rows = [(at, kind, to_json(payload)) for at, kind, payload in connection.execute(_EVENTS, {"study": study})]
    began = [at for at, kind, _ in rows if kind == RUN]
    usage = [(at, payload) for at, kind, payload in rows if kind == USAGE]
    crews: list[list[WorkerRecord]] = [[] for _ in began]
    for worker, leased_at, ended_at, exit_code in connection.execute(_WORKERS, {"study": study}):
        run = sum(at <= leased_at for at in began) - 1
        if run >= 0:
            ended_s = None if ended_at is None else ended_at - began[run]
            packs = [_pack(payload, at - began[run]) for at, payload in usage if payload["worker"] == worker]
            died = ended_at is not None and exit_code != 0
            crews[run].append(WorkerRecord(leased_s=leased_at - began[run], ended_s=ended_s, died=died, packs=tuple(packs)))
    starts = [number for number, (_, kind, _) in enumerate(rows) if kind == RUN]
    spans = itertools.pairwise([*starts, len(rows)])
    return tuple(_run([row[1:] for row in rows[start:end]], crew) for (start, end), crew in zip(spans, crews, strict=True))


def machine(connection: sa.Connection, host: str) -> tuple[str, float | None]:
    """Device and overhead of a machine; see `Ledger.machine`."""
    return device_of(connection, host), overhead_s(connection)


def device_of(connection: sa.Connection, host: str) -> str:
    """Device of the last trial that a machine finished, as its trainer names it; empty where it named none."""
    found = connection.execute(_PROVENANCE, {"host": host}).scalar_one_or_none()
    provenance = {} if found is None else to_strings(found)
    return provenance.get("device", "")


def overhead_s(connection: sa.Connection) -> float | None:
    """Seconds that the last run of any study took beside its programs, as was written down when it ended; None for none."""
    payloads = (to_json(text) for text in connection.execute(_LAST_ENDED).scalars())
    known = (float(cast(float, payload["overhead_s"])) for payload in payloads if payload["overhead_s"] is not None)
    return next(known, None)


def _run(rows: Sequence[tuple[str, Mapping[str, Any]]], crew: Sequence[WorkerRecord]) -> RunRecord:
    """A run from its events: the first one began it, and the last one of its kind ended it."""
    began = rows[0][1]
    nothing: Mapping[str, Any] = {"wall_s": None, "finished": None, "ending": ""}
    ended = next((payload for kind, payload in reversed(rows) if kind == ENDED), nothing)
    return RunRecord(
        **{name: began[name] for name in ("workers", "trials", "estimate_s", "inferred")},
        **{name: ended[name] for name in ("wall_s", "finished", "ending")},
        crew=tuple(crew),
    )


def _pack(payload: Mapping[str, Any], ended_s: float) -> PackRecord:
    return PackRecord(**{name: payload[name] for name in _OF_PACK}, ended_s=ended_s)
