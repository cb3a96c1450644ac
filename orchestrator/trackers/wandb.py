"""W&B: a run for each trial, to the server or to files: live while it trains, and as a whole once it is finished.

The server is never asked what it holds in order to decide anything but where to go on. Steps are explicit and segments of
one run are disjoint, since W&B renumbers or doubles steps that overlap. Nothing that W&B does is allowed to raise.
"""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from orchestrator.records import StudyRecord, TrialRecord
from orchestrator.trackers.base import StudyHeader
from orchestrator.trackers.mode import WandbMode
from orchestrator.trackers.payload import Payload, payload_of, payload_so_far, rows_from
from orchestrator.trackers.published import Copies, Place
from orchestrator.trackers.wandb_file import read_run
from orchestrator.trackers.wandb_library import STRIPPED, Library
from orchestrator.trackers.wandb_pages import Pages
from orchestrator.trackers.wandb_remote import RemoteError, Trouble, one_line
from orchestrator.trackers.wandb_run import OpenRun

WRITE_TIMEOUT_S = 10.0  # for a run's file to be whole
HASTY_TIMEOUT_S = 0.5  # the same, on a disk that was full a moment ago
MOST_LIVE = 64  # runs that are open at once


class WandbTracker:
    """Publishes trials as W&B runs: id is the trial's key, group the study, job type the arm.

    Online it follows trials that still run, and with `pages` every run is in the study's sweep. Offline, `wandb sync FOLDER`
    uploads what is there. Going online later publishes from the records instead, which is the same to the server, and removes
    the folders.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        mode: WandbMode,
        warn: Callable[[str], None],
        project: str = "",
        entity: str | None = None,
        pages: Pages | None = None,
        init_timeout_s: float = 20.0,
        finish_timeout_s: float = 60.0,
    ) -> None:
        """A tracker that keeps run folders in `folder`.

        Args:
            folder: Called `wandb`, as the library insists on.
            mode: ONLINE or OFFLINE. Online falls back to offline at the first failure.
            warn: Takes one line about what went wrong.
            project: Name of the W&B project; else `WANDB_PROJECT`, else `tessera`.
            entity: User or team; else the key's.
            pages: The study's sweep and report; None for runs that are in no sweep.
            init_timeout_s: How long the server may take to accept a run.
            finish_timeout_s: How long it may take to receive one.
        """
        if folder.name != "wandb" or mode is WandbMode.DISABLED:
            raise ValueError(f"a W&B tracker needs a folder called wandb and a mode that is not disabled, not {folder} and {mode}")
        self._folder = folder
        self._mode = mode
        self._warn = warn
        self._library = Library(folder, project=project, entity=entity, init_timeout_s=init_timeout_s, finish_timeout_s=finish_timeout_s)
        self._pages = pages
        self._sweep = ""
        self._live: dict[str, OpenRun] = {}
        self._disk_full = False
        self._study: StudyHeader | None = None
        self._copies: Copies | None = None
        self._said: set[str] = set()

    @property
    def name(self) -> str:
        return f"wandb-{self._mode}"

    @property
    def is_online(self) -> bool:
        """The server is written to. Once it failed, it is not any more."""
        return self._mode is WandbMode.ONLINE

    @property
    def live(self) -> Collection[str]:
        """Keys of the trials whose runs are open."""
        return self._live.keys()

    def open(self, study: StudyHeader) -> None:
        self._study = study
        if found := [name for name in STRIPPED if os.environ.pop(name, None) is not None]:
            self._say(f"ignoring {', '.join(found)}: a run is named after its trial")
        self._ready()
        if self.is_online and self._pages is not None:
            self._join_sweep(study, self._pages)

    def publish(self, trial: TrialRecord) -> bool:
        payload = payload_of(self._opened(), trial)
        copies = self._ready()
        if copies is None:
            return False
        try:
            return self._publish(payload, copies)
        except Exception as error:  # a library at the edge of the process: whatever it raises costs a copy, never the study
            self._say(f"could not publish {payload.name} ({one_line(error)}); it is tried again later", once=type(error).__name__)
            return False

    def follow(self, trial: TrialRecord) -> None:
        """Copies what a trial that still trains has reported so far. Online only: a file of half a run could not be gone on with."""
        study, copies = self._opened(), self._ready()
        if not self.is_online or copies is None or (trial.key not in self._live and len(self._live) >= MOST_LIVE):
            return
        try:
            if trial.key not in self._live:
                self._live[trial.key] = self._begin(payload_so_far(study, trial), copies)
            run = self._live[trial.key]
            run.fill(rows_from(trial, run.next_step))
        except Exception as error:
            self._go_offline(f"cannot be reached ({one_line(error)})")

    def let_go(self, keys: Collection[str]) -> None:
        """Ends the runs of trials that do not train any more, and are not finished: they go on later, where they are."""
        for key in set(keys) & self._live.keys():
            run = self._live.pop(key)
            try:
                run.let_go()
                if self._copies is not None:
                    self._copies.clear(key, synced=True)
            except Exception as error:
                self._go_offline(f"did not take all of a run ({one_line(error)})")

    def again(self, key: str) -> None:
        """Forgets what was published of a trial: the next time, the server is asked what it has."""
        if (copies := self._ready()) is not None:
            copies.forget(key)

    def report(self, record: StudyRecord, table: str) -> bool:
        """Brings the study's report on the server up to date, with a table in Markdown; whether that was done."""
        if not self.is_online or self._pages is None:
            return False
        try:
            self._pages.report(self._library.remote, record, table)
        except RemoteError as error:
            self._say(f"the report was not saved: the server {error}; it is tried again later", once="report")
            return False
        return True

    @property
    def sweep(self) -> str:
        """Name of the sweep that runs are in; empty for none."""
        return self._sweep

    def reach(self) -> None:
        """Asks the server who we are.

        Raises:
            RemoteError: It did not answer, or does not take the key.
        """
        self._library.remote  # noqa: B018 - made on the first use

    def arrived(self, keys: Sequence[str]) -> Mapping[str, tuple[int, str]]:
        """Rows and name of the sweep of each of the runs that the server has.

        Raises:
            RemoteError: It gave no answer.
        """
        return self._library.remote.arrived(keys)

    def close(self) -> None:
        self.let_go(tuple(self._live))
        self._shut()

    def _publish(self, payload: Payload, copies: Copies) -> bool:
        latest = copies.of(payload.key)[-1:]
        now_at = latest[0].place if latest and latest[0].digest == payload.digest else None
        if now_at is Place.ONLINE:
            return True
        if self.is_online:
            place = self._to_server(payload, copies, now_at)
            if place is Place.ONLINE:
                copies.add(payload, place)
            if place is not None:
                return place is Place.ONLINE
        return now_at is Place.OFFLINE or self._to_files(payload, copies)

    def _to_server(self, payload: Payload, copies: Copies, now_at: Place | None) -> Place | None:
        """Where the copy is now; None if the server was not reached, and everything goes offline from here on."""
        was_synced = now_at is Place.OFFLINE and copies.is_synced(payload.key) and not copies.has_unsynced(payload.key)
        if was_synced and not self._sweep:  # with a sweep, it has yet to join it
            return Place.ONLINE
        run = self._live.pop(payload.key, None)
        if run is not None and not run.is_named_as(payload):
            run.let_go()
            run = None
        try:
            run = run or self._begin(payload, copies)
        except Exception as error:
            self._go_offline(f"cannot be reached ({one_line(error)})")
            return None
        try:
            problem = run.finish(payload)
        except Exception as error:
            problem = one_line(error)
        if problem:
            self._go_offline(f"did not take all of {payload.name} ({problem})")
            return Place.PARTLY
        copies.clear(payload.key, synced=True)
        return Place.ONLINE

    def _begin(self, payload: Payload, copies: Copies) -> OpenRun:
        """A run on the server. Of one that a killed process left half-way, and of one that was synced, what is there stays."""
        run = self._library.start(payload, WandbMode.ONLINE, sweep=self._sweep)
        copies.folder(payload.key, pathlib.Path(run.settings.sync_dir))
        copies.add(payload, Place.PARTLY)  # until it is known to be whole: this process may be killed here
        return OpenRun(run, payload, first=int(run.starting_step))

    def _to_files(self, payload: Payload, copies: Copies) -> bool:
        earlier = copies.of(payload.key)
        if earlier and earlier[-1].place is Place.PARTLY:
            return False  # a folder synced beside half a run would double its steps: this one waits for the server
        waits = copies.has_unsynced(payload.key)
        sent = [copy.step for copy in earlier if copy.place is Place.ONLINE or (copy.place is Place.OFFLINE and not waits)]
        copies.clear(payload.key, synced=False)
        first = max(sent, default=-1) + 1
        run = self._library.start(payload, WandbMode.OFFLINE, sweep="")
        copies.folder(payload.key, pathlib.Path(run.settings.sync_dir))
        opened = OpenRun(run, payload, first=first)
        opened.finish(payload)
        timeout_s = HASTY_TIMEOUT_S if self._disk_full else WRITE_TIMEOUT_S
        self._disk_full = not _is_whole(opened.path, n_rows=sum(step >= first for step, _ in payload.rows), timeout_s=timeout_s)
        if self._disk_full:
            copies.clear(payload.key, synced=False)
            self._say(f"could not write all of {payload.name} to {self._folder}: is the disk full? It is tried again later", once="disk")
            return False
        copies.add(payload, Place.OFFLINE)
        return True

    def _join_sweep(self, study: StudyHeader, pages: Pages) -> None:
        try:
            self._sweep = pages.join(self._library.remote, study)
        except RemoteError as error:
            if error.trouble is Trouble.REFUSED:
                self._say(f"the server made no sweep ({error}); runs are in none")
            else:
                self._go_offline(str(error))

    def _opened(self) -> StudyHeader:
        if self._study is None:
            raise ValueError("publish() comes after open()")
        return self._study

    def _ready(self) -> Copies | None:
        if self._copies is None:
            try:
                self._copies = Copies(self._folder)
            except OSError as error:
                self._say(f"cannot use {self._folder} ({one_line(error)})")
        return self._copies

    def _go_offline(self, why: str) -> None:
        self._mode = WandbMode.OFFLINE
        self._live.clear()
        self._shut()  # the library's process keeps the id of a run that failed "in use"; the next one starts with a new process
        self._say(f"{why}; going on offline, the next run that reaches the server completes it")

    def _shut(self) -> None:
        try:
            self._library.close()
        except Exception as error:
            self._say(f"did not end in order ({one_line(error)})")

    def _say(self, text: str, *, once: str = "") -> None:
        """Warns, but not again for the same cause: a study of thousands of trials has one problem with W&B."""
        if (once or text) not in self._said:
            self._said.add(once or text)
            self._warn(f"W&B: {text}")


def _is_whole(path: pathlib.Path, *, n_rows: int, timeout_s: float) -> bool:
    """Whether a run's file holds all its rows and its end. The library's own process writes it, some ms after `finish` returns."""
    give_up = time.monotonic() + timeout_s
    while True:
        written = read_run(path)
        if written.exit_code is not None and len(written.history) == n_rows:
            return True
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
