"""The ledger: one database that holds the truth of every study under an output folder. Each method is one short transaction."""

from __future__ import annotations

import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from orchestrator.contract import Probe
from orchestrator.keys import FlatConfig, Json
from orchestrator.ledger import ending, journal, lease, plan, presence, read, record, runs
from orchestrator.ledger.database import NO_PATIENCE, Database, Patience, patiently
from orchestrator.ledger.ending import BOUNDS
from orchestrator.ledger.opening import open_engine
from orchestrator.ledger.rows import (
    ArtifactRow,
    Entry,
    EventRow,
    Leased,
    Member,
    PlanRows,
    ProgressRow,
    TrialRows,
    Trouble,
    WorkerRow,
)
from orchestrator.records import Cause, Phase, Rung, RunRecord, TrialRecord, TrialState


class Ledger:
    """Plans, leases, measurements and events. Safe to use from several threads and processes; open it anew after a fork.

    Every method raises `LedgerUnavailableError`, having written all or nothing, when the database is locked for a minute, full,
    or out of reach for longer than the ledger was opened to wait, and `LedgerError` when it cannot serve at all. The
    database's clock decides when leases end.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url_or_path: str | pathlib.Path, *, create: bool = True, patience: Patience = NO_PATIENCE) -> Ledger:
        """The ledger in a file, or at a `postgresql://` URL; made first, or brought to this version's schema, where needed.

        Args:
            url_or_path: Where it is.
            create: Make it where there is none.
            patience: Of this call and every later one with a database that cannot serve at the moment.

        Raises:
            LedgerError: There is none and `create` is false; the place cannot be written; it holds something else, or the
                ledger of a newer Tessera.
        """
        return cls(Database(patiently(lambda: open_engine(url_or_path, create=create), patience), patience))

    @property
    def where(self) -> str:
        """The file, or the URL without its password."""
        return self._database.where

    def close(self) -> None:
        """Closes every connection."""
        self._database.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Ledger({self.where!r})"

    # Plans

    def insert_plan(self, rows: PlanRows, *, edition: int | None = None) -> int | None:
        """Makes the study hold exactly this plan, and returns its edition. Trials that are known keep their state; twice is as once.

        A launcher inserts its first plan without an edition, and is given one: that of the study, or the next if the study
        file was edited since. With this it inserts its later plans. None, and nothing is written, when another launcher has
        meanwhile brought a later edition: then the study is that one's.

        Where the plan pauses or stops trials, they follow with it, in the same transaction: one that no study wants to go on
        is PAUSED or STOPPED, one that was and that some study wants again is PLANNED and keeps its rungs. Leased trials are
        left alone until their lease ends. Each decision of the plan is an event, once.

        Memberships that the plan no longer names are kept as orphans: not leased, not counted, back when the plan names
        them again.
        """
        return self._database.write(plan.insert_plan, rows, edition=edition)

    def add_trials(self, study: str, rows: TrialRows) -> None:
        """Adds trials to a planned study, such as a tuner's proposals. Orphans nothing; twice is as once."""
        self._database.write(plan.add_trials, study, rows)

    def members(self, study: str) -> list[Member]:
        """Every membership of the study, orphans too, in the order of the plan."""
        return self._database.read(read.members, study)

    def states(self, keys: Iterable[str]) -> dict[str, TrialState]:
        """State of each trial that is known under any study; unknown keys are left out."""
        return self._database.read(read.states, tuple(keys))

    def outcomes(self, keys: Iterable[str]) -> dict[str, tuple[TrialState, dict[str, float]]]:
        """State of each trial that is known under any study, and the final metrics of complete ones, costs left out."""
        return self._database.read(read.outcomes, list(keys))

    def rungs(self, keys: Iterable[str], metrics: Collection[str]) -> dict[str, tuple[Rung, ...]]:
        """What trials reported of some metrics, in the order of steps; a rung that has none of them is empty."""
        return self._database.read(read.rungs, tuple(keys), metrics)

    def study_spec(self, study: str) -> dict[str, Json] | None:
        """What the study's plan was inserted with; None for an unknown study."""
        return self._database.read(read.study_spec, study)

    def study_names(self) -> tuple[str, ...]:
        """Every study of the ledger, in the order in which they were first planned."""
        return self._database.read(read.study_names)

    # What a worker does

    def register_worker(self, study: str, *, identity: str, host: str, pid: int, started: str | float) -> int:
        """Number of a new worker. `started` tells its process from a later one of the same pid."""
        return self._database.write(presence.register_worker, study, identity=identity, host=host, pid=pid, started=str(started))

    def worker_seen(self, worker: int) -> None:
        """Says that the worker is alive; leasing and renewing say so too."""
        self._database.write(presence.worker_seen, worker)

    def worker_ended(self, worker: int, *, exit_code: int | None = None, reason: str = "") -> None:
        """Says that the worker's process has ended. It leases nothing any more; only the first call counts."""
        self._database.write(presence.worker_ended, worker, exit_code=exit_code, reason=reason)

    def lease(self, study: str, worker: int, n: int, *, signature: str | None = None, lease_s: float) -> list[Leased]:
        """Up to `n` waiting trials of one signature, in the order of the plan, held by the worker for `lease_s` seconds.

        Args:
            study: Whose queue is drawn from.
            worker: Number that `register_worker` gave. One that has ended gets nothing.
            n: Free lanes.
            signature: Of the worker's program. None lets the ledger choose: by plan order among signatures that no other
                worker of the study is on, so that each program is compiled once; else the one with the longest queue.
            lease_s: Seconds until the leases expire unless renewed.

        Trials whose workers died more than once come in ever smaller packs, at last alone, so that the one that kills its
        worker is found.
        """
        return self._database.write(lease.lease, study, worker, n, signature=signature, lease_s=lease_s)

    def waiting(self, study: str, signature: str) -> int:
        """Trials of a signature that wait in the study's queue."""
        return self._database.read(lease.waiting, study, signature)

    def unfinished(self, study: str, *, most: int) -> int:
        """Trials of the study that wait or are held by its workers, counted no further than `most`."""
        return self._database.read(lease.unfinished, study, most)

    def upcoming(self, study: str, worker: int, signature: str) -> FlatConfig | None:
        """Config of the trial that the worker would be given first after the last one of its signature; None for none."""
        return self._database.read(lease.upcoming, study, worker, signature)

    def renew(self, worker: int, lease_s: float, keys: Collection[str] | None = None) -> set[str]:
        """Moves the end of the worker's live leases to `lease_s` seconds from now; keys of the trials it still holds.

        `keys` are the trials that the worker knows it has. One that it was given without hearing of it, as when the
        connection broke at that moment, is not renewed, and so goes to another. None renews all.
        """
        return self._database.write(lease.renew, worker, lease_s, None if keys is None else frozenset(keys))

    def unwanted(self, worker: int) -> set[str]:
        """Trials that the worker holds and that no study has any more, since it was edited: to be saved and let go."""
        return self._database.read(lease.unwanted, worker)

    def record(self, worker: int, entries: Sequence[Entry]) -> dict[str, bool]:
        """Writes a rung of a pack in one transaction. False for a trial whose lease is gone: nothing of it was written.

        True for a trial that this lease has brought to the same end already: the report came twice.

        Raises:
            ValueError: An entry follows the end of its trial.
        """
        return self._database.write(record.record, worker, entries)

    def park(self, worker: int, keys: Collection[str]) -> int:
        """Ends the leases of lanes that wait at a rung, now that their checkpoints are on disk; how many.

        A trial is PAUSED then, or goes where its studies want it: back to the queue, or STOPPED. Leases that have expired
        are left to `expire`.
        """
        return self._database.write(ending.park, worker, keys)

    def release(self, worker: int, *, keys: Collection[str] | None = None, state: TrialState, reason: str) -> int:
        """Hands back what the worker holds, or those of `keys`; how many.

        `state` is PREEMPTED for a worker told to stop, PLANNED for lanes it never began.
        """
        return self._database.write(ending.release, worker, keys=keys, state=state, reason=reason)

    def fail(
        self, worker: int, key: str, fence: int, reason: str, *, cause: Cause = Cause.RAISED, bounds: Mapping[Cause, int] = BOUNDS
    ) -> TrialState | None:
        """Ends an attempt that raised: the trial is PLANNED again, or FAILED after so many attempts that ended by this cause.

        Returns that state, or None when the lease was gone and nothing was written.
        """
        return self._database.write(ending.fail, worker, key, fence, reason, cause=cause, bounds=bounds)

    # What the driver does

    def expire(self, study: str, *, bounds: Mapping[Cause, int] = BOUNDS) -> list[str]:
        """Ends the study's expired leases as LOST; keys of the trials. `bounds` as in `release_dead`."""
        return self._database.write(ending.expire, study, bounds=bounds)

    def release_dead(self, study: str, causes: Mapping[int, Cause], *, bounds: Mapping[Cause, int] = BOUNDS) -> list[str]:
        """Ends the leases of workers known to be dead as LOST, at once; keys of the trials.

        Args:
            study: Whose workers they were.
            causes: Numbers of the dead, with what they died of.
            bounds: A trial that was alone on its worker is FAILED when so many workers died of that cause with it since it
                last got further than before.
        """
        return self._database.write(ending.release_dead, study, causes, bounds=bounds)

    def retry(self, study: str) -> int:
        """FAILED trials of the study wait again, their failures forgotten; how many."""
        return self._database.write(ending.retry, study)

    def redo(self, keys: Iterable[str]) -> int:
        """Complete trials wait again, because files that they left behind were damaged since; how many.

        What they measured stands until they report it again.
        """
        return self._database.write(ending.redo, tuple(keys))

    def troubles(self, study: str) -> tuple[Trouble, ...]:
        """Attempts at the study's trials that ended before their time, oldest first."""
        return self._database.read(ending.troubles, study)

    def live_workers(self, study: str) -> list[WorkerRow]:
        """Workers of the study that were not said to have ended, oldest first. Whether they live is for the driver to see."""
        return self._database.read(presence.live_workers, study)

    def claim(self, study: str, role: str, holder: str, lease_s: float) -> bool:
        """Whether the holder has a role of the study, such as publishing, for `lease_s` seconds from now.

        One process has it at a time: the first to ask, until it lets go or does not ask again in time.
        """
        return self._database.write(presence.claim, study, role, holder, lease_s)

    def disclaim(self, study: str, role: str, holder: str) -> None:
        """Lets a role go; does nothing when somebody else has it."""
        self._database.write(presence.disclaim, study, role, holder)

    def request_stop(self, study: str, stop: bool) -> None:
        """Asks the study's workers to checkpoint and end, or takes that back."""
        self._database.write(journal.request_stop, study, stop)

    def stop_requested(self, study: str) -> bool:
        """Whether the study's workers are asked to end."""
        return self._database.read(journal.stop_requested, study)

    def reached(self, study: str) -> dict[str, int]:
        """Trials of the study that workers hold, and the last step that each has reported."""
        return self._database.read(read.reached, study)

    def counts(self, study: str) -> dict[tuple[str, Phase], dict[TrialState, int]]:
        """Trials in each state, by arm and phase in the order of the plan. States without trials are left out."""
        return self._database.read(read.counts, study)

    def progress(self, study: str) -> tuple[ProgressRow, ...]:
        """The lines of a live table, in the order of the plan."""
        return self._database.read(read.progress, study)

    def trial_records(
        self,
        study: str,
        *,
        phases: Collection[Phase] | None = None,
        keys: Collection[str] | None = None,
        with_rungs: bool = True,
    ) -> tuple[TrialRecord, ...]:
        """The study's trials in the order of the plan, without orphans; a trial of two arms comes twice.

        Args:
            study: Its name.
            phases: Only these; None is all.
            keys: Only these trials; None is all.
            with_rungs: Read learning curves too. Without, `rungs` are empty and `metrics` are as ever.
        """
        return self._database.read(read.trial_records, study, phases=phases, keys=keys, with_rungs=with_rungs)

    def artifacts(self, keys: Iterable[str]) -> tuple[ArtifactRow, ...]:
        """Files that the trials left behind, by trial and name."""
        return self._database.read(read.artifacts_of, tuple(keys))

    # What is told beside the trials

    def event(self, study: str, kind: str, trial: str | None = None, **payload: Json) -> int:
        """Notes that something happened to the study, or to one of its trials; number of the event."""
        return self._database.write(journal.event, study, kind, trial, payload)

    def events(self, study: str, after_id: int = 0, kind: str = "") -> tuple[EventRow, ...]:
        """Events with larger numbers than `after_id`, in their order; of one kind only where it is named."""
        return self._database.read(journal.events_after, study, after_id, kind)

    def run_records(self, study: str) -> tuple[RunRecord, ...]:
        """How the study was run, oldest first: from its events `run`, `run ended` and `usage`, and from its workers."""
        return self._database.read(runs.run_records, study)

    def machine(self, host: str) -> tuple[str, float | None]:
        """The device that a machine's last finished trial was trained on, and the seconds of a run beside its programs.

        Empty and None where no trial, or no run, of any study was.
        """
        return self._database.read(runs.machine, host)

    def unpublished(self, study: str, tracker: str) -> tuple[str, ...]:
        """Terminal trials that the tracker does not have, in the order of the plan. A trial run again is published again."""
        return self._database.read(journal.unpublished, study, tracker)

    def mark_published(self, study: str, tracker: str, keys: str | Sequence[str]) -> None:
        """Says that the tracker has one trial, or several, as they are now."""
        self._database.write(journal.mark_published, study, tracker, [keys] if isinstance(keys, str) else keys)

    def probe_put(self, probe: Probe) -> None:
        """Keeps a speed measurement for later plans of any study."""
        self._database.write(journal.probe_put, probe)

    def probes(self, signatures: Iterable[str]) -> tuple[Probe, ...]:
        """Speed measurements of the signatures."""
        return self._database.read(journal.probes_of, tuple(signatures))
