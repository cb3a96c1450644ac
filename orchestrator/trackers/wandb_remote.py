"""The W&B server, for what is no run: who we are, the sweep, what reports there are, and how much of each run has arrived."""

from __future__ import annotations

import enum
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from orchestrator.trackers.links import Links

_SWEEPS = """
query TesseraSweeps($project: String!, $entity: String!, $cursor: String) {
  project(name: $project, entityName: $entity) {
    sweeps(first: 100, after: $cursor) {
      edges { node { id name description } }
      pageInfo { endCursor hasNextPage }
    }
  }
}
"""
_UPSERT_SWEEP = """
mutation TesseraUpsertSweep(
  $id: ID, $config: String, $description: String, $entity: String, $project: String, $controller: JSONString, $displayName: String
) {
  upsertSweep(input: {
    id: $id, config: $config, description: $description, entityName: $entity, projectName: $project, controller: $controller,
    displayName: $displayName
  }) {
    sweep { id name }
  }
}
"""
_REPORTS = """
query TesseraReports($project: String!, $entity: String!, $cursor: String) {
  project(name: $project, entityName: $entity) {
    allViews(viewType: "runs", first: 100, after: $cursor) {
      edges { node { id description } }
      pageInfo { endCursor hasNextPage }
    }
  }
}
"""
_RUNS = """
query TesseraRuns($project: String!, $entity: String!, $filters: JSONString, $cursor: String) {
  project(name: $project, entityName: $entity) {
    runs(filters: $filters, first: 100, after: $cursor) {
      edges { node { name sweepName historyLineCount } }
      pageInfo { endCursor hasNextPage }
    }
  }
}
"""
_LIKE_A_KEY = re.compile(r"\b\w{40,}\b")
_AT_ONCE = 100  # runs asked about in one question


class Trouble(enum.Enum):
    """Why the server did not do as it was asked."""

    KEY = "does not take the key"
    DOWN = "cannot be reached"
    REFUSED = "refused"


class RemoteError(Exception):
    """A question to the server that got no answer; a line that holds no key."""

    def __init__(self, trouble: Trouble, detail: str) -> None:
        super().__init__(f"{trouble.value} ({detail})")
        self.trouble, self.detail = trouble, detail


class Remote:
    """A connection, made with the user's key.

    Attributes:
        entity: User or team whose project it is.
        project: Its name.
    """

    def __init__(self, wandb: Any, *, project: str, entity: str | None, timeout_s: float) -> None:
        """Asks who we are.

        Raises:
            RemoteError: The server does not answer, or does not take the key.
        """
        self._timeout_s = timeout_s
        try:
            self._api = wandb.Api(timeout=max(1, int(timeout_s)))
            self.entity = str(entity or self._api.settings["entity"] or self._api.default_entity or "")
        except Exception as error:  # of a library at the edge
            raise problem(error) from error
        if not self.entity:
            raise RemoteError(Trouble.KEY, "it belongs to nobody")
        self.project = project
        self._server = str(self._api.settings["base_url"])
        self._pages = str(self._service.app_url).rstrip("/")

    @property
    def _service(self) -> Any:
        """What the library's own companion for reports asks through."""
        return self._api._service_api

    def place(self, links: Links) -> Links:
        """The links if they are of this server and project, else none."""
        return links.at(self._server, self.entity, self.project)

    def sweep_url(self, sweep: str) -> str:
        """Page of a sweep."""
        return "/".join([self._pages, *(quote(part) for part in (self.entity, self.project, "sweeps", sweep))])

    def find_sweep(self, description: str) -> str:
        """Id of the sweep that describes itself so; empty if the project has none.

        Raises:
            RemoteError: The server gave no answer.
        """
        return self._described(_SWEEPS, "sweeps", description)

    def put_sweep(self, config: Mapping[str, Any], node: str) -> tuple[str, str]:
        """Makes a sweep, or tells the one with that id something else; its id and name.

        Raises:
            RemoteError: The server gave no answer, or refused.
        """
        variables = {
            "id": node or None,
            "config": json.dumps(config, ensure_ascii=False),  # JSON is YAML
            "description": config["description"],
            "displayName": config["name"],
            "controller": json.dumps(config["controller"]),
            "entity": self.entity,
            "project": self.project,
        }
        sweep = self._asked(_UPSERT_SWEEP, variables)["upsertSweep"]["sweep"]
        return str(sweep["id"]), str(sweep["name"])

    def find_report(self, description: str) -> str:
        """Id of the report that describes itself so; empty if the project has none.

        Raises:
            RemoteError: The server gave no answer.
        """
        return self._described(_REPORTS, "allViews", description)

    def arrived(self, keys: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Rows of history and name of the sweep of each run that the server has; a run without a sweep has an empty name.

        Raises:
            RemoteError: The server gave no answer.
        """
        found: dict[str, tuple[int, str]] = {}
        for start in range(0, len(keys), _AT_ONCE):
            filters = json.dumps({"$or": [{"name": key} for key in keys[start : start + _AT_ONCE]]})
            rows = self._listed(_RUNS, "runs", {"filters": filters})
            found |= {str(row["name"]): (int(row["historyLineCount"] or 0), str(row["sweepName"] or "")) for row in rows}
        return found

    def _described(self, query: str, name: str, description: str) -> str:
        return next((str(row["id"]) for row in self._listed(query, name, {}) if row["description"] == description), "")

    def _listed(self, query: str, name: str, variables: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The nodes of every page; none where there is no such project yet."""
        cursor = None
        for _ in itertools.count():
            here = {"entity": self.entity, "project": self.project, "cursor": cursor}
            project = self._asked(query, {**variables, **here})["project"]
            if project is None:
                return
            yield from (edge["node"] for edge in project[name]["edges"])
            cursor = project[name]["pageInfo"]["endCursor"]
            if not project[name]["pageInfo"]["hasNextPage"]:
                return

    def _asked(self, query: str, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return self._service.execute_graphql(query, variables, timeout=self._timeout_s)
        except Exception as error:
            raise problem(error) from error


def problem(error: BaseException) -> RemoteError:
    """What an exception of the library means."""
    text, status = one_line(error), _status(error)
    if "did not respond in time" in text:  # the library speaks of its own process, which waits for the server
        return RemoteError(Trouble.DOWN, "no answer in time")
    if status in (401, 403) or "api key" in text.lower():
        return RemoteError(Trouble.KEY, text)
    if status is None or status >= 429 or status == 408:
        return RemoteError(Trouble.DOWN, text)
    return RemoteError(Trouble.REFUSED, text)


def one_line(error: BaseException) -> str:
    """An exception as a short line without the key."""
    text = _LIKE_A_KEY.sub("***", " ".join(f"{type(error).__name__}: {error}".split()))
    if key := os.environ.get("WANDB_API_KEY"):
        text = text.replace(key, "***")
    return text if len(text) <= 200 else text[:199] + "…"


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an exception, or what it was raised from, carries; None if the server did not answer."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "http_status", None)
        if status:
            return int(status)
        error = error.__cause__ or getattr(error, "exc", None)
    return None
