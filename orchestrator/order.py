"""What a worker is told, and where it finds the folders of trials."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import TypeVar

AnyPath = TypeVar("AnyPath", bound=pathlib.PurePath)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOrder:
    """All that a worker is told, as a JSON file that its command line names.

    Attributes:
        ledger: Path of the ledger, or its URL without a password, for people: the whole one is in the environment
            variable TESSERA_STORAGE, which nobody else can read.
        study: Whose trials it leases.
        trainer: `module:Class`.
        identity: Name of the work unit.
        out: Folder that holds the trials' folders.
        n_workers: Workers of the study, to share a short queue fairly.
        lease_s: Seconds until a lease that is not renewed expires.
        paths: Where modules are found, as `sys.path` of the launcher.
        provenance: Versions and commit, stored with each finished trial.
    """

    ledger: str
    study: str
    trainer: str
    identity: str
    out: str
    n_workers: int
    lease_s: float
    paths: tuple[str, ...]
    provenance: tuple[tuple[str, str], ...]

    def write(self, path: pathlib.Path) -> None:
        """Writes the order where `read` finds it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, path: pathlib.Path) -> WorkerOrder:
        """The order that a launcher wrote."""
        values = json.loads(path.read_text())
        return cls(**(values | {"paths": tuple(values["paths"]), "provenance": tuple((key, value) for key, value in values["provenance"])}))


def trial_folder(out: AnyPath, key: str) -> AnyPath:
    """Where a trial keeps its checkpoints and predictions, whatever the study. Artifacts in the ledger are relative to `out`."""
    return out / "trials" / key[:2] / key
