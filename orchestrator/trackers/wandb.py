"""W&B: a run for each finished trial, to the server or to files, rebuilt from the record as a whole.

The server is never asked what it holds in order to decide anything but where to go on. Steps are explicit and segments of
one run are disjoint, since W&B renumbers or doubles steps that overlap. Nothing that W&B does is allowed to raise.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

from orchestrator.records import TrialRecord
from orchestrator.trackers.base import StudyHeader
from orchestrator.trackers.mode import WandbMode
from orchestrator.trackers.payload import STEP, Payload, payload_of
from orchestrator.trackers.published import Copies, Place
from orchestrator.trackers.wandb_file import read_run

# They would name every run alike, and WANDB_SWEEP_ID makes `wandb.init` ignore the id it is given.
STRIPPED = (
    "WANDB_SWEEP_ID",
    "WANDB_SWEEP_PARAM_PATH",
    "WANDB_RUN_ID",
    "WANDB_RUN_GROUP",
    "WANDB_JOB_TYPE",
    "WANDB_NAME",
    "WANDB_RESUME",
    "WANDB_SERVICE",
)
PROJECT = "tessera"
WRITE_TIMEOUT_S = 10.0  # for a run's file to be whole
HASTY_TIMEOUT_S = 0.5  # the same, on a disk that was full a moment ago
MAX_TAG = 64  # characters; W&B refuses longer ones


class WandbTracker:
    """Publishes trials as W&B runs: id is the trial's key, group the study, job type the arm.

    Offline, `wandb sync FOLDER` uploads what is there. Going online later publishes from the records instead, which is
    the same to the server, and removes the folders.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        mode: WandbMode,
        warn: Callable[[str], None],
        project: str = "",
        entity: str | None = None,
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
            init_timeout_s: How long the server may take to accept a run.
            finish_timeout_s: How long it may take to receive one.
        """
        if folder.name != "wandb" or mode is WandbMode.DISABLED:
            raise ValueError(f"a W&B tracker needs a folder called wandb and a mode that is not disabled, not {folder} and {mode}")
        self._folder = folder
        self._mode = mode
        self._warn = warn
        self._project = project or os.environ.get("WANDB_PROJECT") or PROJECT
        self._entity = entity
        self._timeouts = {"init_timeout": init_timeout_s, "finish_timeout": finish_timeout_s}
        self._disk_full = False
        self._study: StudyHeader | None = None
        self._copies: Copies | None = None
        self._wandb: Any = None
        self._said: set[str] = set()

    @property
    def name(self) -> str:
        return f"wandb-{self._mode}"

    def open(self, study: StudyHeader) -> None:
        self._study = study
        if found := [name for name in STRIPPED if os.environ.pop(name, None) is not None]:
            self._say(f"ignoring {', '.join(found)}: a run is named after its trial")
        self._ready()

    def publish(self, trial: TrialRecord) -> bool:
        if self._study is None:
            raise ValueError("publish() comes after open()")
        payload = payload_of(self._study, trial)
        copies = self._ready()
        if copies is None:
            return False
        try:
            return self._publish(payload, copies)
        except Exception as error:  # a library at the edge of the process: whatever it raises costs a copy, never the study
            self._say(f"could not publish {payload.name} ({_one_line(error)}); it is tried again later", once=type(error).__name__)
            return False

    def close(self) -> None:
        wandb, self._wandb = self._wandb, None
        if wandb is None:
            return
        try:
            wandb.teardown(exit_code=0)
        except Exception as error:
            self._say(f"did not end in order ({_one_line(error)})")

    def _publish(self, payload: Payload, copies: Copies) -> bool:
        latest = copies.of(payload.key)[-1:]
        now_at = latest[0].place if latest and latest[0].digest == payload.digest else None
        if now_at is Place.ONLINE:
            return True
        if self._mode is WandbMode.ONLINE:
            place = self._to_server(payload, copies, now_at)
            if place is Place.ONLINE:
                copies.add(payload, place)
            if place is not None:
                return place is Place.ONLINE
        return now_at is Place.OFFLINE or self._to_files(payload, copies)

    def _to_server(self, payload: Payload, copies: Copies, now_at: Place | None) -> Place | None:
        """Where the copy is now; None if the server was not reached, and everything goes offline from here on."""
        if now_at is Place.OFFLINE and copies.is_synced(payload.key) and not copies.has_unsynced(payload.key):
            return Place.ONLINE
        try:
            run = self._start(payload, WandbMode.ONLINE, copies)
        except Exception as error:
            self._go_offline(f"cannot be reached ({_one_line(error)})")
            return None
        copies.add(payload, Place.PARTLY)  # until it is known to be whole: this process may be killed here
        problem = ""
        try:
            # Zero for a new run. Of one that a killed process left half-way, and of one that was synced, what is there stays.
            self._fill(run, payload, first=int(run.starting_step))
            problem = _upload_problem(pathlib.Path(run.settings.log_internal))
        except Exception as error:
            problem = _one_line(error)
        if problem:
            self._go_offline(f"did not take all of {payload.name} ({problem})")
            return Place.PARTLY
        copies.clear(payload.key, synced=True)
        return Place.ONLINE

    def _to_files(self, payload: Payload, copies: Copies) -> bool:
        earlier = copies.of(payload.key)
        if earlier and earlier[-1].place is Place.PARTLY:
            return False  # a folder synced beside half a run would double its steps: this one waits for the server
        waits = copies.has_unsynced(payload.key)
        sent = [copy.step for copy in earlier if copy.place is Place.ONLINE or (copy.place is Place.OFFLINE and not waits)]
        copies.clear(payload.key, synced=False)
        first = max(sent, default=-1) + 1
        run = self._start(payload, WandbMode.OFFLINE, copies)
        path = pathlib.Path(run.settings.sync_file)
        self._fill(run, payload, first=first)
        timeout_s = HASTY_TIMEOUT_S if self._disk_full else WRITE_TIMEOUT_S
        self._disk_full = not _is_whole(path, n_rows=sum(step >= first for step, _ in payload.rows), timeout_s=timeout_s)
        if self._disk_full:
            copies.clear(payload.key, synced=False)
            self._say(f"could not write all of {payload.name} to {self._folder}: is the disk full? It is tried again later", once="disk")
            return False
        copies.add(payload, Place.OFFLINE)
        return True

    def _start(self, payload: Payload, mode: WandbMode, copies: Copies) -> Any:
        wandb = self._library()
        run = wandb.init(
            dir=str(self._folder.parent),
            mode=mode.value,
            project=self._project,
            entity=self._entity,
            id=payload.key,
            name=payload.name,
            group=payload.group,
            job_type=payload.job_type,
            tags=[tag[:MAX_TAG] for tag in payload.tags],
            config={key: list(value) if isinstance(value, tuple) else value for key, value in payload.config.items()},
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(**_known(wandb, {**LEAN, **self._timeouts})),
        )
        copies.folder(payload.key, pathlib.Path(run.settings.sync_dir))
        return run

    def _fill(self, run: Any, payload: Payload, *, first: int) -> None:
        try:
            run.define_metric(STEP)
            run.define_metric("*", step_metric=STEP)
            for step, row in payload.rows:
                if step >= first:
                    run.log(dict(row), step=step, commit=True)
            run.summary.update(dict(payload.summary))
        finally:
            run.finish(exit_code=payload.exit_code)

    def _library(self) -> Any:
        if self._wandb is None:
            wandb: Any = importlib.import_module("wandb")
            wandb.setup(wandb.Settings(silent=True))
            self._wandb = wandb
        return self._wandb

    def _ready(self) -> Copies | None:
        if self._copies is None:
            try:
                self._copies = Copies(self._folder)
            except OSError as error:
                self._say(f"cannot use {self._folder} ({_one_line(error)})")
        return self._copies

    def _go_offline(self, why: str) -> None:
        self._mode = WandbMode.OFFLINE
        self.close()  # the library's process keeps the id of a run that failed "in use"; the next one starts with a new process
        self._say(f"{why}; going on offline, the next run that reaches the server completes it")

    def _say(self, text: str, *, once: str = "") -> None:
        """Warns, but not again for the same cause: a study of thousands of trials has one problem with W&B."""
        if (once or text) not in self._said:
            self._said.add(once or text)
            self._warn(f"W&B: {text}")


# Each line is a cost or a risk that was measured: requirements alone take 80 ms a run, the flush bounds what a kill loses,
# and without `stop_fn` a click in the browser interrupts this process.
LEAN: dict[str, Any] = {
    "console": "off",
    "silent": True,
    "symlink": False,
    "disable_git": True,
    "disable_job_creation": True,
    "label_disable": True,
    "save_code": False,
    "finish_timeout_raises": True,
    "stop_fn": lambda: None,
    "x_save_requirements": False,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_transaction_log_flush_interval": 1.0,
}


def _known(wandb: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that the installed version has; the `x_` ones come and go."""
    return {name: value for name, value in settings.items() if name in wandb.Settings.model_fields}


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


def _upload_problem(log: pathlib.Path) -> str:
    """Why the upload was given up, from the log of the library's own process, which `finish` does not tell; else empty."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    fatal = next((line for line in lines if "filestream: fatal error" in line), "")
    return "the upload was refused" + (f": HTTP {code}" if (code := _status(fatal)) else "") if fatal else ""


def _status(line: str) -> str:
    _, _, rest = line.partition("failed to upload: ")
    return rest[:3] if rest[:3].isdigit() else ""


def _one_line(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if key := os.environ.get("WANDB_API_KEY"):
        text = text.replace(key, "***")
    return text if len(text) <= 200 else text[:199] + "…"
