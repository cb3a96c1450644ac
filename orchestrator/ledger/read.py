"""Reads: whole studies in a few queries, never one for each trial."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Mapping

import sqlalchemy as sa

from orchestrator.keys import Json
from orchestrator.ledger.codec import Decoded, LazyConfig, moment, to_config, to_json, to_numbers, to_strings
from orchestrator.ledger.database import chunks
from orchestrator.ledger.rows import ArtifactRow, Member, ProgressRow
from orchestrator.ledger.schema import artifacts, attempts, cells, is_short, measurements, memberships, now, studies, trials
from orchestrator.records import Phase, Rung, TrialRecord, TrialState

Curve = dict[int, dict[str, float]]

_LIVE = sa.and_(memberships.c.study == sa.bindparam("study"), memberships.c.orphaned == sa.false())
# A state as the study sees it: a trial that it dropped is stopped and one that it holds at a rung is paused, though another
# study may train it on. What came to an end did so for all.
_state: sa.ColumnElement[str] = sa.case(
    (trials.c.state.in_((TrialState.COMPLETE, TrialState.DIVERGED, TrialState.FAILED)), trials.c.state),
    (memberships.c.dropped != "", str(TrialState.STOPPED)),
    (sa.not_(is_short), str(TrialState.PAUSED)),
    else_=trials.c.state,
)
_going = (TrialState.LEASED, TrialState.PAUSED)
_MEMBERS = (
    sa.select(
        trials.c.key,
        trials.c.cell,
        memberships.c.arm,
        memberships.c.phase,
        memberships.c.number,
        memberships.c.position,
        memberships.c.point,
        memberships.c.orphaned,
        _state,
    )
    .join_from(memberships, trials)
    .where(memberships.c.study == sa.bindparam("study"))
    .order_by(memberships.c.position, memberships.c.arm, memberships.c.phase, memberships.c.number)
)
_COUNTS = (
    sa.select(
        memberships.c.arm,
        memberships.c.phase,
        _state.label("state"),
        sa.func.count(),
        sa.func.sum(trials.c.step),
        sa.func.min(memberships.c.position),
    )
    .join_from(memberships, trials)
    .where(_LIVE)
    .group_by(memberships.c.arm, memberships.c.phase, sa.literal_column("3"))
)
_RECORDS = (
    sa.select(
        trials.c.key,
        trials.c.cell,
        memberships.c.arm,
        memberships.c.phase,
        memberships.c.number,
        trials.c.seed,
        memberships.c.point,
        _state,
        # What its study says of a trial that it stopped; of one that failed or diverged, for whomever, its own reason.
        sa.case((sa.and_(_state == TrialState.STOPPED, memberships.c.dropped != ""), memberships.c.dropped), else_=trials.c.reason),
        memberships.c.signature,
        trials.c.step,
        trials.c.fence,
        cells.c.config,
        cells.c.cost,
        attempts.c.ended_at,
        attempts.c.provenance,
    )
    .select_from(
        memberships.join(trials)
        .join(cells)
        .outerjoin(attempts, sa.and_(attempts.c.trial == trials.c.key, attempts.c.fence == trials.c.fence))
    )
    .where(_LIVE)
    .order_by(memberships.c.position, memberships.c.arm, memberships.c.phase, memberships.c.number)
)
_held_s = sa.func.coalesce(attempts.c.ended_at, now()) - attempts.c.leased_at
_HELD = sa.select(
    attempts.c.trial,
    sa.func.sum(sa.case((_held_s > 0, _held_s), else_=0.0)),
    sa.func.sum(sa.case((attempts.c.outcome == TrialState.PAUSED, 1), else_=0)),
).group_by(attempts.c.trial)
_MEASURED = sa.select(measurements.c.trial, measurements.c.step, measurements.c.name, measurements.c.value).order_by(
    measurements.c.trial, measurements.c.step, measurements.c.name
)
_FINAL = _MEASURED.join(trials, trials.c.key == measurements.c.trial).where(
    trials.c.state == TrialState.COMPLETE, measurements.c.step == trials.c.step
)


def members(connection: sa.Connection, study: str) -> list[Member]:
    """Every membership of the study, orphans too, in the order of the plan."""
    points = Decoded(to_config)
    return [
        Member(
            key=key,
            cell=cell,
            arm=arm,
            phase=Phase(phase),
            index=number,
            position=position,
            point=points[point],
            orphaned=orphaned,
            state=TrialState(state),
        )
        for key, cell, arm, phase, number, position, point, orphaned, state in connection.execute(_MEMBERS, {"study": study})
    ]


def states(connection: sa.Connection, keys: Iterable[str]) -> dict[str, TrialState]:
    """State of each of the trials that the ledger knows."""
    found: dict[str, TrialState] = {}
    for some in chunks(keys):
        rows = connection.execute(sa.select(trials.c.key, trials.c.state).where(trials.c.key.in_(some)))
        found |= {key: TrialState(state) for key, state in rows}
    return found


def outcomes(connection: sa.Connection, keys: Iterable[str]) -> dict[str, tuple[TrialState, dict[str, float]]]:
    """State of each of the trials that the ledger knows, and the final metrics of those that are complete."""
    found = {key: (state, dict[str, float]()) for key, state in states(connection, keys).items()}
    for some in chunks([key for key, (state, _) in found.items() if state is TrialState.COMPLETE]):
        for trial, _, name, value in connection.execute(_FINAL.where(measurements.c.trial.in_(some))):
            found[trial][1][name] = math.nan if value is None else value
    return found


def rungs(connection: sa.Connection, keys: Iterable[str], metrics: Collection[str]) -> dict[str, tuple[Rung, ...]]:
    """What the trials reported of the metrics; see `Ledger.rungs`."""
    curves: dict[str, Curve] = {}
    for some in chunks(keys):
        for trial, step, name, value in connection.execute(_MEASURED.where(measurements.c.trial.in_(some))):
            rung = curves.setdefault(trial, {}).setdefault(step, {})
            if name in metrics:
                rung[name] = math.nan if value is None else value
    return {trial: tuple(Rung(step=step, metrics=metrics) for step, metrics in curve.items()) for trial, curve in curves.items()}


def study_spec(connection: sa.Connection, study: str) -> dict[str, Json] | None:
    """What `insert_plan` was given as the study's description; None for an unknown study."""
    text = connection.execute(sa.select(studies.c.spec).where(studies.c.name == study)).scalar_one_or_none()
    return None if text is None else to_json(text)


def study_names(connection: sa.Connection) -> tuple[str, ...]:
    """Every study of the ledger, in the order in which they were first planned."""
    return tuple(connection.execute(sa.select(studies.c.name).order_by(studies.c.created_at, studies.c.name)).scalars())


def reached(connection: sa.Connection, study: str) -> dict[str, int]:
    """Last reported step of each leased trial of the study; see `Ledger.reached`."""
    query = sa.select(trials.c.key, trials.c.step).join_from(memberships, trials).where(_LIVE, trials.c.worker.is_not(None))
    return {key: int(step) for key, step in connection.execute(query, {"study": study})}


def counts(connection: sa.Connection, study: str) -> dict[tuple[str, Phase], dict[TrialState, int]]:
    """Trials in each state, by arm and phase, in the order of the plan. States without trials are left out."""
    rows = sorted(connection.execute(_COUNTS, {"study": study}), key=lambda row: row[5])
    found: dict[tuple[str, Phase], dict[TrialState, int]] = {}
    for arm, phase, state, n, _, _ in rows:
        found.setdefault((arm, Phase(phase)), {})[TrialState(state)] = n
    return found


def progress(connection: sa.Connection, study: str) -> tuple[ProgressRow, ...]:
    """The lines of a live table, in the order of the plan."""
    rows = sorted(connection.execute(_COUNTS, {"study": study}), key=lambda row: row[5])
    by_arm: dict[tuple[str, str], dict[TrialState, tuple[int, int]]] = {}
    for arm, phase, state, n, steps, _ in rows:
        by_arm.setdefault((arm, phase), {})[TrialState(state)] = (n, int(steps))
    return tuple(_progress(arm, Phase(phase), found) for (arm, phase), found in by_arm.items())


def trial_records(
    connection: sa.Connection, study: str, *, phases: Collection[Phase] | None, keys: Collection[str] | None, with_rungs: bool
) -> tuple[TrialRecord, ...]:
    """The study's trials in the order of the plan; see `Ledger.trial_records`."""
    query = _RECORDS if phases is None else _RECORDS.where(memberships.c.phase.in_([str(phase) for phase in phases]))
    few = None if keys is None else list(chunks(keys))
    curves = _curves(connection, study, few, with_rungs=with_rungs)
    held = _held(connection, study, few)
    queries = [query] if few is None else [query.where(trials.c.key.in_(some)) for some in few]
    configs, points, costs, origins = Decoded(LazyConfig), Decoded(to_config), Decoded(to_numbers), Decoded(to_strings)
    records: list[TrialRecord] = []
    for row in (row for query in queries for row in connection.execute(query, {"study": study})):
        key, cell, arm, phase, number, seed, point, state_, reason, signature, step, fence, config, cost, ended_at, provenance = row
        state = TrialState(state_)
        curve = curves.get(key, {})
        final = curve.get(step, {})
        records.append(
            TrialRecord(
                key=key,
                cell=sys.intern(cell),
                arm=sys.intern(arm),
                phase=Phase(phase),
                index=number,
                seed=seed,
                config=configs[config],
                point=points[point],
                state=state,
                reason=reason if state.is_terminal and state is not TrialState.COMPLETE else "",
                signature=sys.intern(signature),
                cost=costs[cost],
                metrics={**costs[cost], **final} if state is TrialState.COMPLETE else {},
                rungs=tuple(Rung(step=step, metrics=metrics) for step, metrics in curve.items()) if with_rungs else (),
                attempts=fence,
                elapsed_s=held[key][0] if key in held else 0.0,
                finished_at=moment(ended_at) if state.is_terminal else "",
                provenance=origins[provenance] if state.is_terminal and provenance is not None else {},
                pauses=held[key][1] if key in held else 0,
            )
        )
    return tuple(records)


def artifacts_of(connection: sa.Connection, keys: Iterable[str]) -> tuple[ArtifactRow, ...]:
    """Files that the trials left behind, by trial and name."""
    query = sa.select(artifacts.c.trial, artifacts.c.name, artifacts.c.uri, artifacts.c.sha256)
    query = query.order_by(artifacts.c.trial, artifacts.c.name)
    rows = (row for some in chunks(keys) for row in connection.execute(query.where(artifacts.c.trial.in_(some))))
    return tuple(ArtifactRow(trial=trial, name=name, uri=uri, sha256=sha256) for trial, name, uri, sha256 in rows)


def _curves(connection: sa.Connection, study: str, few: list[list[str]] | None, *, with_rungs: bool) -> dict[str, Curve]:
    """Step to metrics, by trial; without rungs, of the last step of complete trials only."""
    query = _MEASURED if with_rungs else _FINAL
    own = sa.select(memberships.c.trial).where(_LIVE)
    queries = [query.where(measurements.c.trial.in_(own))] if few is None else [query.where(measurements.c.trial.in_(some)) for some in few]
    curves: dict[str, Curve] = {}
    for some in queries:
        for trial, step, name, value in connection.execute(some, {"study": study}):
            # Metrics have few names, and each row would bring a copy of one.
            curves.setdefault(trial, {}).setdefault(step, {})[sys.intern(name)] = math.nan if value is None else value
    return curves


def _held(connection: sa.Connection, study: str, few: list[list[str]] | None) -> dict[str, tuple[float, int]]:
    """Seconds that workers held each trial, and how many attempts ended at a rung."""
    own = sa.select(memberships.c.trial).where(_LIVE)
    queries = [_HELD.where(attempts.c.trial.in_(own))] if few is None else [_HELD.where(attempts.c.trial.in_(some)) for some in few]
    rows = (row for query in queries for row in connection.execute(query, {"study": study}))
    return {trial: (float(held_s), int(pauses)) for trial, held_s, pauses in rows}


def _progress(arm: str, phase: Phase, found: Mapping[TrialState, tuple[int, int]]) -> ProgressRow:
    def n(*of: TrialState) -> int:
        return sum(found[state][0] for state in of if state in found)

    return ProgressRow(
        arm=arm,
        phase=phase,
        done=n(TrialState.COMPLETE, TrialState.STOPPED, TrialState.DIVERGED),
        running=n(TrialState.LEASED),
        waiting=n(*(state for state in TrialState if state.is_waiting)),
        paused=n(TrialState.PAUSED),
        failed=n(TrialState.FAILED),
        running_steps=sum(found[state][1] for state in _going if state in found),
    )
