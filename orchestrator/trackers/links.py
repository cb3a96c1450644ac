"""Where a study is on a W&B server: its sweep and its report, each made once and kept by name in the ledger."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from orchestrator.keys import Json


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """What a study has on one server, in one project. All empty: nothing is known.

    Attributes:
        server: Address of the server.
        entity: User or team.
        project: Name of the project.
        sweep: Id of the sweep, as runs name it.
        sweep_node: Id of the sweep, as the server's changes name it.
        sweep_digest: Of what the sweep was told that it sweeps.
        sweep_url: Page of the sweep.
        report: Id of the report.
        report_url: Page of the report.
    """

    server: str = ""
    entity: str = ""
    project: str = ""
    sweep: str = ""
    sweep_node: str = ""
    sweep_digest: str = ""
    sweep_url: str = ""
    report: str = ""
    report_url: str = ""

    @classmethod
    def of(cls, row: Mapping[str, Json]) -> Links:
        """As `as_row` wrote it."""
        return cls(**{field.name: str(row[field.name]) for field in dataclasses.fields(cls) if field.name in row})

    def as_row(self) -> dict[str, Any]:
        """As JSON; without a secret, since an address never holds the key."""
        return dataclasses.asdict(self)

    @property
    def lines(self) -> tuple[str, ...]:
        """What a reader is told.

        >>> Links(sweep_url="http://localhost/a/b/sweeps/x").lines
        ('W&B sweep: http://localhost/a/b/sweeps/x',)
        """
        named = (("sweep", self.sweep_url), ("report", self.report_url))
        return tuple(f"W&B {name}: {url}" for name, url in named if url)

    def at(self, server: str, entity: str, project: str) -> Links:
        """These links if they are of that place, else none yet of that place."""
        here = Links(server=server, entity=entity, project=project)
        return self if (self.server, self.entity, self.project) == (server, entity, project) else here
