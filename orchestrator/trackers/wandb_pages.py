"""What a study has on a W&B server beside its runs: one sweep and one report, each made once, whoever was killed meanwhile."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from orchestrator.records import StudyRecord
from orchestrator.trackers.base import StudyHeader
from orchestrator.trackers.links import Links
from orchestrator.trackers.wandb_remote import Remote
from orchestrator.trackers.wandb_report import save_report
from orchestrator.trackers.wandb_sweep import digest, mark, sweep_config


class Pages:
    """The sweep and the report of one study."""

    def __init__(self, links: Links, note: Callable[[Links], None]) -> None:
        """Starts from what is known; `note` keeps what is made, at once."""
        self._links, self._note = links, note

    def join(self, remote: Remote, study: StudyHeader) -> str:
        """Name of the study's sweep: known, else found on the server, else made. It is told what the study sweeps now.

        Raises:
            RemoteError: The server gave no answer, or refused.
        """
        here, config = remote.place(self._links), sweep_config(study)
        if here.sweep_digest != digest(config):
            node = here.sweep_node or remote.find_sweep(mark(study.name))
            node, sweep = remote.put_sweep(config, node)
            here = dataclasses.replace(here, sweep=sweep, sweep_node=node, sweep_digest=digest(config), sweep_url=remote.sweep_url(sweep))
        self._keep(here)
        return here.sweep

    def report(self, remote: Remote, record: StudyRecord, table: str) -> None:
        """Brings the report up to date: the same one each time.

        Raises:
            RemoteError: The server gave no answer, or refused.
        """
        here = remote.place(self._links)
        report, url = save_report(remote, record, table=table, sweep_url=here.sweep_url, known=here.report)
        self._keep(dataclasses.replace(here, report=report, report_url=url))

    def _keep(self, links: Links) -> None:
        if links != self._links:
            self._links = links
            self._note(links)
