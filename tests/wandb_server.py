"""A W&B server on loopback: as much of the protocol as the real client needs for runs, sweeps and reports.

It holds what it was sent, so that a test can compare, and can be told to refuse requests. Says nothing about the policy of
the real server (permissions, rate limits, what the pages show).
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import gzip
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import pytest

OPERATION = re.compile(r"\b(?:query|mutation)\s+(\w+)")
STREAM = re.compile(r"/files/(?P<entity>[^/]+)/(?P<project>[^/]+)/(?P<run>[^/]+)/file_stream")
STREAMED = ("wandb-history.jsonl", "wandb-events.jsonl", "output.log")
ENTITY = "loop"


@dataclasses.dataclass(kw_only=True)
class Run:
    """One run as the server holds it; history as the JSON lines it came in."""

    name: str
    project: str
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    lines: dict[str, list[str]] = dataclasses.field(
        default_factory=lambda: {"wandb-history.jsonl": [], "wandb-events.jsonl": [], "output.log": []}
    )
    exit_code: int | None = None
    preempting: bool = False

    @property
    def history(self) -> list[dict[str, Any]]:
        """Rows, without what the client adds."""
        rows = [json.loads(line) for line in self.lines["wandb-history.jsonl"]]
        return [{key: value for key, value in row.items() if key not in ("_runtime", "_timestamp")} for row in rows]

    @property
    def values(self) -> dict[str, Any]:
        """Config, without what the client adds."""
        return {key: row["value"] for key, row in self.config.items() if key != "_wandb"}

    @property
    def flat(self) -> dict[str, Any]:
        """Config under dotted keys, as the pages show it."""
        return dict(flattened(self.values))

    @property
    def steps(self) -> list[int]:
        """Steps of the history, in the order of its rows."""
        return [row["_step"] for row in self.history]


def flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Groups in groups as pairs of dotted key and value."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@dataclasses.dataclass(kw_only=True)
class Sweep:
    """One sweep: what it was told last, and how often it was told something."""

    name: str
    project: str
    description: str
    config: dict[str, Any]
    told: int = 1


@dataclasses.dataclass(kw_only=True)
class View:
    """One report: what was saved last, and how often."""

    id: str
    project: str
    fields: dict[str, Any]
    saved: int = 1

    @property
    def spec(self) -> dict[str, Any]:
        """Its blocks."""
        return json.loads(self.fields["spec"])


@dataclasses.dataclass(kw_only=True)
class Fault:
    """Requests that the server refuses.

    Attributes:
        where: Regular expression for `METHOD /path operation`.
        status: What it answers; 0 hangs up without an answer.
        times: How often.
        headers: Such as Retry-After.
    """

    where: str
    status: int
    times: int = 10**9
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


def _nothing(request: str) -> None:
    del request


class WandbServer:
    """State of the server. `url` is what WANDB_BASE_URL takes; `valid` the only key it takes, None for any."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.keys: set[str] = set()
        self.valid: str | None = None
        self.sweeps: dict[str, Sweep] = {}
        self.views: dict[str, View] = {}
        self.projects: dict[str, None] = {}
        self.stopped = False
        self.before: Callable[[str], object] = _nothing
        self.url = ""
        self.lock = threading.RLock()

    def empty(self) -> None:
        """Forgets everything; the address stays."""
        with self.lock:
            for held in (self.runs, self.faults, self.requests, self.keys, self.sweeps, self.views, self.projects):
                held.clear()
            self.valid, self.stopped, self.before = None, False, _nothing

    def fault(self, request: str) -> Fault | None:
        """The refusal that this request meets, if any."""
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.where, request):
                fault.times -= 1
                return fault
        return None

    def graphql(self, operation: str, given: Mapping[str, Any]) -> Any:
        """The data that answers an operation; None for one that is not known."""
        match operation:
            case "Viewer":
                return {"viewer": _viewer()}
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "OrganizationCoreWeaveOrganizationID":
                return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}
            case "UpsertBucket":
                return self._upsert(given)
            case "RunResumeStatus":
                run = self.runs.get(given["name"])
                return {"model": {**_project(given["project"]), "bucket": self._node(run) if run else None}}
            case "RunStoppedStatus":
                return {"project": {"run": {"stopped": self.stopped}}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.url}/storage/{given['run']}/{name}"} for name in given["files"]]
                return {"createRunFiles": {"runID": _id("Run", given["run"]), "uploadHeaders": [], "files": files}}
            case "TesseraUpsertSweep":
                return {"upsertSweep": {"sweep": self._upsert_sweep(given)}}
            case "TesseraSweeps":
                return self._page(given, "sweeps", [_sweep(row) for row in self.sweeps.values() if row.project == given["project"]])
            case "TesseraRuns":
                asked = {row["name"] for row in json.loads(given["filters"])["$or"]}
                found = [run for run in self.runs.values() if run.name in asked and run.project == given["project"]]
                return self._page(given, "runs", [self._node(run) for run in found])
            case "TesseraReports":
                return self._page(given, "allViews", [_view(row) for row in self.views.values() if row.project == given["project"]])
            case "upsertView":
                return self._upsert_view(given)
            case "GetDefaultEntity":
                return {"viewer": _viewer()}
            case "GetProjects":
                edges = [{"node": _project_node(name), "cursor": name} for name in self.projects]
                return {"models": {"edges": edges, "pageInfo": _LAST}}
            case "CreateProject":
                self.projects[given["input"]["name"]] = None
                project = _project_node(given["input"]["name"])
                return {"upsertModel": {"project": project, "model": project, "inserted": True}}
            case _:
                return None

    def _page(self, given: Mapping[str, Any], name: str, nodes: list[dict[str, Any]]) -> Any:
        """Everything on one page; None for a project that nobody made."""
        if given["project"] not in self.projects:
            return {"project": None}
        return {"project": {name: {"edges": [{"node": node, "cursor": "c"} for node in nodes], "pageInfo": _LAST}}}

    def _upsert_sweep(self, given: Mapping[str, Any]) -> Any:
        self.projects[given["project"]] = None
        config = json.loads(given["config"])
        if given["id"]:
            sweep = next(row for row in self.sweeps.values() if _id("Sweep", row.name) == given["id"])
            sweep.config, sweep.told = config, sweep.told + 1
        else:
            name = f"sweep{len(self.sweeps):03}"
            sweep = self.sweeps[name] = Sweep(name=name, project=given["project"], description=given["description"], config=config)
        return _sweep(sweep)

    def _upsert_view(self, given: Mapping[str, Any]) -> Any:
        known = self.views.get(given["id"] or "")
        view = known or View(id=_id("View", str(len(self.views))), project=given["projectName"], fields={}, saved=0)
        view.fields, view.saved = dict(given), view.saved + 1
        self.views[view.id] = view
        return {"upsertView": {"view": _view(view), "inserted": known is None}}

    def stream(self, project: str, name: str, body: Mapping[str, Any]) -> bool:
        """Takes rows into a run; False if there is no such run."""
        run = self.runs.get(name)
        if run is None or run.project != project:
            return False
        for file, part in (body.get("files") or {}).items():
            if file == "wandb-summary.json":
                run.summary = json.loads(part["content"][-1])
            else:
                lines = run.lines[file]
                lines += ["{}"] * (part["offset"] - len(lines))
                lines[part["offset"] : part["offset"] + len(part["content"])] = part["content"]
        run.preempting = bool(body.get("preempting")) or run.preempting
        if body.get("complete"):
            run.exit_code = int(body.get("exitcode") or 0)
        return True

    def _upsert(self, given: Mapping[str, Any]) -> Any:
        name, project = given["name"], given.get("project") or "uncategorized"
        inserted = name not in self.runs
        self.projects[project] = None
        run = self.runs.setdefault(name, Run(name=name, project=project))
        run.fields.update({key: value for key, value in given.items() if value is not None and key not in ("config", "summaryMetrics")})
        if given.get("config"):
            run.config = json.loads(given["config"])
        if given.get("summaryMetrics"):
            run.summary.update(json.loads(given["summaryMetrics"]))
        return {"upsertBucket": {"bucket": self._node(run), "inserted": inserted}}

    def _node(self, run: Run) -> dict[str, Any]:
        history, events, log = run.lines.values()
        return {
            "id": _id("Run", run.name),
            "name": run.name,
            "displayName": run.fields.get("displayName"),
            "description": "",
            "notes": "",
            "config": json.dumps(run.config),
            "sweepName": run.fields.get("sweep"),
            "group": run.fields.get("groupName"),
            "jobType": run.fields.get("jobType"),
            "tags": run.fields.get("tags") or [],
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(history),
            "eventsLineCount": len(events),
            "logLineCount": len(log),
            "historyTail": json.dumps(history[-1:]),
            "eventsTail": json.dumps(events[-1:]),
            "wandbConfig": json.dumps({"t": 1}),
            "project": _project(run.project),
            "state": "running" if run.exit_code is None else "finished",
        }


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: WandbServer

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def answer(self) -> None:
        """One request of any method."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        path = urllib.parse.urlparse(self.path).path
        asked = json.loads(body) if path == "/graphql" else {}
        found = OPERATION.search(asked.get("query", ""))
        operation = asked.get("operationName") or (found[1] if found else "")
        request = f"{self.command} {path} {operation}".strip()
        self.state.before(request)
        with self.state.lock:
            self.state.requests.append(request)
            key = _key(self.headers.get("Authorization") or "")
            self.state.keys.add(key)
            if self.state.valid is not None and path == "/graphql" and key != self.state.valid:
                status, reply, headers = 401, {"errors": [{"message": "user is not logged in"}]}, {}
            else:
                status, reply, headers = self._reply(request, path, operation, asked, body)
        if status == 0:
            self.close_connection = True
            return
        data = json.dumps(reply).encode()
        with contextlib.suppress(ConnectionError):  # a client that gave up waiting
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    def _reply(self, request: str, path: str, operation: str, asked: Mapping[str, Any], body: bytes) -> tuple[int, Any, Mapping[str, str]]:
        if fault := self.state.fault(request):
            return fault.status, {"error": "refused by the test"}, fault.headers
        if operation:
            data = self.state.graphql(operation, asked.get("variables") or {})
            return 200, {"data": data} if data is not None else {"data": None, "errors": [{"message": f"unknown: {operation}"}]}, {}
        if found := STREAM.fullmatch(path):
            if not self.state.stream(found["project"], found["run"], json.loads(body or b"{}")):
                return 404, {"error": "no such run"}, {}
            return 200, {"exitcode": None, "limits": {}, "stopped": self.state.stopped}, {}
        return (200, {}, {}) if path.startswith("/storage/") else (404, {"error": "no such path"}, {})

    do_GET = do_POST = do_PUT = answer  # noqa: N815


class _Http(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


@contextlib.contextmanager
def at_home(key: str) -> Generator[WandbServer]:
    """A server, in an environment in which W&B's client takes it for its own and has this key."""
    with serving() as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_BASE_URL", running.url)
        patch.setenv("WANDB_API_KEY", key)
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        yield running


@contextlib.contextmanager
def serving() -> Generator[WandbServer]:
    """A server on a free port of 127.0.0.1, until the block ends."""
    state = WandbServer()
    http_server = _Http(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    state.url = f"http://127.0.0.1:{http_server.server_address[1]}"
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        http_server.shutdown()
        http_server.server_close()
        thread.join()


_LAST = {"endCursor": None, "hasNextPage": False}


def _sweep(sweep: Sweep) -> dict[str, Any]:
    return {"id": _id("Sweep", sweep.name), "name": sweep.name, "description": sweep.description}


def _view(view: View) -> dict[str, Any]:
    project = _project_node(view.project)
    plain = {name: view.fields[name] for name in ("type", "name", "displayName", "description", "spec")}
    moment = "2026-01-01T00:00:00"
    return {"id": view.id, "project": project, "updatedAt": moment, "createdAt": moment, "user": {"username": ENTITY}, **plain}


def _project_node(name: str) -> dict[str, Any]:
    user = {**_viewer(), "deletedAt": None, "accountType": None, "apiKeys": {"edges": []}}
    made = {"internalId": name, "isBenchmark": False, "createdAt": "2026-01-01T00:00:00Z", "user": user}
    return {**_project(name), "entityName": ENTITY, **made}


def _id(kind: str, name: str) -> str:
    return base64.b64encode(f"{kind}:v1:{name}".encode()).decode()


def _key(authorization: str) -> str:
    return base64.b64decode(authorization.removeprefix("Basic ")).decode().removeprefix("api:") if authorization else ""


def _project(name: str) -> dict[str, Any]:
    return {"id": _id("Project", name), "name": name, "entity": {"id": _id("Entity", ENTITY), "name": ENTITY}}


def _viewer() -> dict[str, Any]:
    teams = {"edges": [{"node": {"name": ENTITY}}]}
    return {
        "id": _id("User", "1"),
        "entity": ENTITY,
        "username": ENTITY,
        "name": ENTITY,
        "email": "",
        "admin": False,
        "flags": "{}",
        "teams": teams,
    }
