"""The dashboard's server: on loopback only, until somebody presses Ctrl-C."""

from __future__ import annotations

import contextlib
import importlib
import pathlib
import socketserver
import tempfile
import threading
import wsgiref.simple_server
from collections.abc import Callable, Generator
from typing import Any

from orchestrator.dashboard.site import Application, Site
from orchestrator.errors import OrchestratorError
from orchestrator.records import StudyRecord

HOST = "127.0.0.1"


class _Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class _Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def serving(
    port: int, *, stamp: Callable[[], object], read: Callable[[], StudyRecord], write: Callable[[pathlib.Path], pathlib.Path]
) -> Generator[str]:
    """Serves a study until the block ends; gives the address.

    Args:
        port: Of loopback; 0 for any that is free.
        stamp: Gives something that differs when the ledger has news.
        read: Gives the study with every rung.
        write: Writes the report into a folder.

    Raises:
        OrchestratorError: optuna-dashboard is not installed, or the port is taken.
    """
    application = optuna_dashboard()
    with tempfile.TemporaryDirectory(prefix="report-") as folder:
        site = Site(stamp=stamp, read=read, write=write, application=application, folder=pathlib.Path(folder))
        with _bound(port, site) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="dashboard", daemon=True)
            thread.start()
            try:
                yield f"http://{HOST}:{server.server_port}/"
            finally:
                server.shutdown()
                thread.join()


def optuna_dashboard() -> Callable[[Any], Application]:
    """From a storage to the application that shows it.

    Raises:
        OrchestratorError: It is not installed.
    """
    try:
        library: Any = importlib.import_module("optuna_dashboard")
    except ImportError as error:
        raise OrchestratorError(
            "the dashboard is not installed", found=str(error), expected="the extra `dashboard`", fix='pip install -e ".[dashboard]"'
        ) from error
    return library.wsgi


def _bound(port: int, site: Application) -> _Server:
    try:
        return wsgiref.simple_server.make_server(HOST, port, site, server_class=_Server, handler_class=_Handler)
    except OSError as error:
        raise OrchestratorError(
            "the dashboard cannot be served", found=f"port {port}: {error.strerror}", fix="choose another port with --port, or 0 for any"
        ) from error
