"""What is told beside the trials themselves: stop requests, events, what trackers have, how fast programs run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa

from orchestrator.contract import Probe
from orchestrator.errors import LedgerError
from orchestrator.keys import Json, canonical
from orchestrator.ledger.codec import moment, to_json
from orchestrator.ledger.database import chunks, put
from orchestrator.ledger.rows import DecisionRow, EventRow
from orchestrator.ledger.schema import events, memberships, now, probes, publications, studies, trials
from orchestrator.ledger.states import TERMINAL

DECISION = "decision"  # kind of the events that tell what stopping rules decided

_published = sa.and_(
    publications.c.study == memberships.c.study,
    publications.c.tracker == sa.bindparam("tracker"),
    publications.c.trial == trials.c.key,
    publications.c.fence == trials.c.fence,
)
_UNPUBLISHED = (
    sa.select(trials.c.key)
    .select_from(memberships.join(trials).outerjoin(publications, _published))
    .where(
        memberships.c.study == sa.bindparam("study"),
        memberships.c.orphaned == sa.false(),
        trials.c.state.in_(TERMINAL),
        publications.c.trial.is_(None),
    )
    .order_by(memberships.c.position)
)


def request_stop(connection: sa.Connection, study: str, stop: bool) -> None:
    """Asks the study's workers to checkpoint and end, or takes that back."""
    if connection.execute(sa.update(studies).where(studies.c.name == study).values(stop=stop)).rowcount == 0:
        raise unknown_study(study)


def stop_requested(connection: sa.Connection, study: str) -> bool:
    """Whether the study's workers are asked to end."""
    stop = connection.execute(sa.select(studies.c.stop).where(studies.c.name == study)).scalar_one_or_none()
    if stop is None:
        raise unknown_study(study)
    return stop


def event(connection: sa.Connection, study: str, kind: str, trial: str | None, payload: Mapping[str, Json]) -> int:
    """Number of the new event. Numbers that JSON cannot hold are kept as text."""
    row = {"study": study, "kind": kind, "trial": trial or "", "payload": canonical({key: _plain(value) for key, value in payload.items()})}
    made = connection.execute(sa.insert(events).values(at=now(), **row)).inserted_primary_key
    assert made is not None
    return int(made[0])


def tell_decisions(connection: sa.Connection, study: str, rows: Sequence[DecisionRow]) -> None:
    """An event for each decision that was not told yet, or that is another one now."""
    if not rows:
        return
    query = sa.select(events.c.trial, events.c.payload).where(events.c.study == study, events.c.kind == DECISION).order_by(events.c.id)
    said = ((trial, to_json(text)) for trial, text in connection.execute(query))
    told = {(trial, row["arm"], row["index"], row["rung"]): row for trial, row in said}
    new: list[dict[str, Any]] = []
    for row in rows:
        payload = {key: _plain(value) for key, value in dataclasses.asdict(row).items() if key != "trial"}
        if told.get((row.trial, row.arm, row.index, row.rung)) != payload:
            new.append({"study": study, "kind": DECISION, "trial": row.trial, "payload": canonical(payload)})
    if new:
        connection.execute(sa.insert(events).values(at=now()), new)


def events_after(connection: sa.Connection, study: str, after_id: int, kind: str) -> tuple[EventRow, ...]:
    """Events of the study with larger numbers, in their order; of all kinds where none is named."""
    query = sa.select(events.c.id, events.c.at, events.c.kind, events.c.trial, events.c.payload)
    query = query.where(events.c.study == study, events.c.id > after_id).order_by(events.c.id)
    query = query.where(events.c.kind == kind) if kind else query
    return tuple(
        EventRow(id=id, at=moment(at), kind=kind, trial=trial, payload=to_json(payload))
        for id, at, kind, trial, payload in connection.execute(query)
    )


def unpublished(connection: sa.Connection, study: str, tracker: str) -> tuple[str, ...]:
    """Terminal trials whose last attempt the tracker does not have, in the order of the plan."""
    return tuple(dict.fromkeys(connection.execute(_UNPUBLISHED, {"study": study, "tracker": tracker}).scalars()))


def mark_published(connection: sa.Connection, study: str, tracker: str, keys: Sequence[str]) -> None:
    """The tracker has the trials as they are now."""
    for some in chunks(keys):
        found = connection.execute(sa.select(trials.c.key, trials.c.fence).where(trials.c.key.in_(some)))
        put(connection, publications, [{"study": study, "tracker": tracker, "trial": key, "fence": fence} for key, fence in found])


def probe_put(connection: sa.Connection, probe: Probe) -> None:
    """Keeps a speed measurement, in place of an older one of the same kind."""
    put(connection, probes, [dataclasses.asdict(probe)])


def probes_of(connection: sa.Connection, signatures: Iterable[str]) -> tuple[Probe, ...]:
    """Speed measurements of the signatures, by signature, device, strategy, width."""
    query = sa.select(probes).order_by(probes.c.signature, probes.c.device, probes.c.strategy, probes.c.width)
    rows = (row for some in chunks(signatures) for row in connection.execute(query.where(probes.c.signature.in_(some))).mappings())
    return tuple(Probe(**row) for row in rows)


def _plain(value: Any) -> Json:
    """As it comes back from JSON."""
    if isinstance(value, tuple):
        return [_plain(item) for item in cast("tuple[Any, ...]", value)]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else cast(Json, value)


def unknown_study(study: str) -> LedgerError:
    """The error for a study that was never planned."""
    return LedgerError(f"the ledger has no study {study!r}", fix="insert its plan first, or correct its name")
