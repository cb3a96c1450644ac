"""The wandb package, loaded when it is first needed: how a run is started, and what a run's own process says of its upload.

Whatever the library changes from release to release is met here and in `wandb_remote`.
"""

from __future__ import annotations

import importlib
import os
import pathlib
from typing import Any

from orchestrator.trackers.mode import WandbMode
from orchestrator.trackers.payload import STEP, Payload, nested
from orchestrator.trackers.wandb_remote import Remote

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
MAX_TAG = 64  # characters; W&B refuses longer ones

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
    "x_file_stream_transmit_interval": 5.0,  # seconds between two uploads of a live run; 15 otherwise
}

# The ledger has what a run on the server holds: no file of it is kept here beside.
UNKEPT: dict[str, Any] = {"x_skip_transaction_log": True}


class Library:
    """The package, and the process of its own that it works with."""

    def __init__(self, folder: pathlib.Path, *, project: str, entity: str | None, init_timeout_s: float, finish_timeout_s: float) -> None:
        """Nothing is imported yet.

        Args:
            folder: Of the run folders; its name is `wandb`.
            project: Name of the W&B project; else `WANDB_PROJECT`, else `tessera`.
            entity: User or team; else the key's.
            init_timeout_s: How long the server may take to accept a run, or to answer.
            finish_timeout_s: How long it may take to receive a run.
        """
        self._folder = folder
        self.project = project or os.environ.get("WANDB_PROJECT") or PROJECT
        self._entity = entity
        self._timeouts = {"init_timeout": init_timeout_s, "finish_timeout": finish_timeout_s}
        self._wandb: Any = None
        self._remote: Remote | None = None

    @property
    def package(self) -> Any:
        """The module, set up to keep quiet."""
        if self._wandb is None:
            wandb: Any = importlib.import_module("wandb")
            wandb.setup(wandb.Settings(silent=True))
            self._wandb = wandb
        return self._wandb

    @property
    def remote(self) -> Remote:
        """The server, for what is no run.

        Raises:
            RemoteError: It did not answer, or does not take the key.
        """
        if self._remote is None:
            self._remote = Remote(self.package, project=self.project, entity=self._entity, timeout_s=self._timeouts["init_timeout"])
        return self._remote

    def start(self, payload: Payload, mode: WandbMode, *, sweep: str) -> Any:
        """A live run, named after its trial; one that the server has goes on where it is. Whatever the library raises."""
        wandb = self.package
        run = wandb.init(
            dir=str(self._folder.parent),
            mode=mode.value,
            project=self.project,
            entity=self._entity,
            id=payload.key,
            name=payload.name,
            group=payload.group,
            job_type=payload.job_type,
            tags=tags(payload),
            config=config(payload),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(**self._settings(mode, sweep)),
        )
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        return run

    def close(self) -> None:
        """Ends the library's process, and with it what runs are open. Whatever the library raises."""
        wandb, self._wandb, self._remote = self._wandb, None, None
        if wandb is not None:
            wandb.teardown(exit_code=0)

    def _settings(self, mode: WandbMode, sweep: str) -> dict[str, Any]:
        """Those that the installed version has; the `x_` ones come and go."""
        wanted = {**LEAN, **self._timeouts, **(UNKEPT if mode is WandbMode.ONLINE else {}), **({"sweep_id": sweep} if sweep else {})}
        known = self.package.Settings.model_fields
        return {name: value for name, value in wanted.items() if name in known}


def tags(payload: Payload) -> list[str]:
    """As W&B takes them."""
    return [tag[:MAX_TAG] for tag in payload.tags]


def config(payload: Payload) -> dict[str, Any]:
    """As W&B shows it."""
    return nested({key: list(value) if isinstance(value, tuple) else value for key, value in payload.config.items()})


def upload_problem(log: pathlib.Path) -> str:
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
