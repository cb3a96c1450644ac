"""What the browser gets: a first page, optuna-dashboard, and the report; all to be looked at, nothing to be changed."""

from __future__ import annotations

import datetime
import html
import json
import mimetypes
import pathlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from orchestrator.dashboard.view import Numbers, storage_of_record
from orchestrator.records import StudyRecord

REFRESH_S = 2.0  # between two looks at the ledger
REPORT_S = 15.0  # between two reports, which take seconds to draw

Environ: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[..., Any]
Application: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{name}</title><style>:root{{color-scheme:light dark}}body{{font:16px/1.6 system-ui;max-width:40rem;margin:3rem auto;padding:0 1rem}}
</style><h1>{name}</h1><p>{question}</p><ul><li><a href="/dashboard">Trials, in optuna-dashboard</a></li>
<li><a href="/report/">The report, as of now</a></li></ul></html>"""


class Site:
    """A WSGI application over one study.

    Args:
        stamp: Gives something that differs when the ledger has news of the study.
        read: Gives the study with every rung, without its derived arms.
        write: Writes the report into a folder and returns the path of its page.
        application: From Optuna's storage to the application that shows it.
        folder: An empty one, for the report.
    """

    def __init__(
        self,
        *,
        stamp: Callable[[], object],
        read: Callable[[], StudyRecord],
        write: Callable[[pathlib.Path], pathlib.Path],
        application: Callable[[Any], Application],
        folder: pathlib.Path,
    ) -> None:
        self._stamp, self._read, self._write, self._application, self._folder = stamp, read, write, application, folder
        self._lock, self._numbers = threading.Lock(), Numbers()
        self._record = read()
        self._shown: Application | None = None
        self._seen: object = None
        self._reported: object = None
        self._looked_at, self._reported_at = 0.0, 0.0

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answers one request."""
        path = str(environ["PATH_INFO"])
        if not _is_local(str(environ.get("HTTP_HOST", ""))):  # a page of another site that had its name point here
            return _answer(start_response, "403 Forbidden", b"ask for localhost\n", "text/plain")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            told = json.dumps({"reason": "this is a view of the ledger: nothing can be changed here"}).encode()
            return _answer(start_response, "405 Method Not Allowed", told, "application/json")
        if path == "/":
            return _answer(start_response, "200 OK", self._first_page(), "text/html; charset=utf-8")
        if path == "/report" or path.startswith("/report/"):
            return self._file(start_response, path.removeprefix("/report").lstrip("/") or "index.html", redirect=path == "/report")
        return self._optuna()(environ, start_response)

    def _first_page(self) -> bytes:
        question = (self._record.question.strip().splitlines() or [""])[0]
        return _PAGE.format(name=html.escape(self._record.name), question=html.escape(question)).encode()

    def _optuna(self) -> Application:
        """The application over the newest view; a look at the ledger costs a query, and a new view is made when it has news."""
        with self._lock:
            now = time.monotonic()
            if self._shown is None or now > self._looked_at + REFRESH_S:
                stamp = self._stamp()
                if self._shown is None or stamp != self._seen:
                    self._record = self._read()
                    moment = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
                    self._shown = self._application(storage_of_record(self._record, self._numbers, moment))
                self._seen, self._looked_at = stamp, now
            return self._shown

    def _file(self, start_response: StartResponse, name: str, *, redirect: bool) -> Iterable[bytes]:
        if redirect:
            start_response("302 Found", [("Location", "/report/"), ("Content-Length", "0")])
            return []
        with self._lock:
            stamp, now = self._stamp(), time.monotonic()
            if not self._reported_at or (stamp != self._reported and now > self._reported_at + REPORT_S):
                self._write(self._folder)
                self._reported, self._reported_at = stamp, now
            files: Mapping[str, pathlib.Path] = {
                str(path.relative_to(self._folder)): path for path in self._folder.rglob("*") if path.is_file()
            }
            if name not in files:  # a name among those that there are leads nowhere else
                return _answer(start_response, "404 Not Found", b"no such file of the report\n", "text/plain")
            content = files[name].read_bytes()
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return _answer(start_response, "200 OK", content, f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)


def _answer(start_response: StartResponse, status: str, body: bytes, kind: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")])
    return [body]


def _is_local(host: str) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    return name in ("localhost", "127.0.0.1", "[::1]")
