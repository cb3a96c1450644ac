"""What a worker holds, as it knows itself: kept while it lives, and noticed when it is gone."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence

from orchestrator.causes import Failure
from orchestrator.errors import LedgerError
from orchestrator.ledger import Entry, Leased, Ledger
from orchestrator.records import TrialState

log = logging.getLogger("worker")


class LeaseLostError(LedgerError):
    """Leases are gone, so their trials may be another worker's by now: nothing more of them is written, not even a checkpoint."""

    def __init__(self, keys: Collection[str]) -> None:
        self.keys = frozenset(keys)
        super().__init__("leases are gone: this worker was not heard of for too long", found=", ".join(sorted(keys)))


class Leases:
    """The leases of one worker. One thread trains under them, another renews them.

    Everything that changes what is held happens under one lock, with the ledger's answer: so a trial that ended a moment ago
    is never taken for one that was lost. A lease that was granted without this worker hearing of it is not renewed.
    """

    def __init__(self, ledger: Ledger, study: str, worker: int, lease_s: float) -> None:
        self._ledger, self._study, self._worker, self._lease_s = ledger, study, worker, lease_s
        self._changing = threading.Lock()
        self._held: dict[str, int] = {}
        self._lost: frozenset[str] = frozenset()
        self._unwanted: frozenset[str] = frozenset()
        self._renewed_at = time.monotonic()

    @property
    def unwanted(self) -> frozenset[str]:
        """Of what is held, that no study had any more at the last renewal."""
        return self._unwanted

    def take(self, n: int, signature: str | None) -> list[Leased]:
        """Up to `n` more trials; see `Ledger.lease`."""
        with self._changing:
            asked_at = time.monotonic()
            leased = self._ledger.lease(self._study, self._worker, n, signature=signature, lease_s=self._lease_s)
            if not self._held:
                self._renewed_at = asked_at
            self._held |= {lane.key: lane.fence for lane in leased}
            self._lost -= {lane.key for lane in leased}
            return leased

    def record(self, entries: Sequence[Entry]) -> Mapping[str, bool]:
        """Whether each entry was written; one that was not, or that ends its trial, is held no more."""
        with self._changing:
            written = self._ledger.record(self._worker, entries)
            self._drop([entry.key for entry in entries if entry.outcome is not None or not written[entry.key]])
            return written

    def park(self, keys: Collection[str]) -> None:
        """Ends the leases of lanes whose checkpoints are on disk."""
        with self._changing:
            self._ledger.park(self._worker, keys)
            self._drop(keys)

    def release(self, keys: Collection[str], reason: str) -> None:
        """Gives trials back, none of them to blame."""
        if keys:
            with self._changing:
                self._ledger.release(self._worker, keys=keys, state=TrialState.PREEMPTED, reason=reason)
                self._drop(keys)

    def fail(self, lane: Leased, failure: Failure) -> None:
        """Ends an attempt that raised."""
        with self._changing:
            then = self._ledger.fail(self._worker, lane.key, lane.fence, failure.reason, cause=failure.cause)
            self._drop([lane.key])
        log.info("trial %s: %s (%s)", lane.key, "lost" if then is None else then.value, failure.cause.value)

    def forget(self, keys: Collection[str]) -> None:
        """Lets go of leases that are gone."""
        with self._changing:
            self._drop(keys)

    def renew(self) -> None:
        """Renews what is held, notes what is gone, and asks what is wanted no more."""
        with self._changing:
            asked_at = time.monotonic()
            live = self._ledger.renew(self._worker, self._lease_s, keys=self._held.keys())
            self._renewed_at = asked_at
            self._lost = frozenset(self._held.keys() - live)
        self._unwanted = frozenset(self._ledger.unwanted(self._worker)) if live else frozenset()

    def check(self, keys: Collection[str]) -> None:
        """Makes sure, before anything is done with trials, that their leases were live within their term.

        Costs nothing while renewals come through. A process that was stopped for longer asks the ledger first.

        Raises:
            LeaseLostError: One is gone.
        """
        if keys and time.monotonic() - self._renewed_at > self._lease_s:
            self.renew()
        if gone := self._lost.intersection(keys):
            raise LeaseLostError(gone)

    def _drop(self, keys: Collection[str]) -> None:
        for key in keys:
            self._held.pop(key, None)
        self._lost -= set(keys)
