"""What every test runs under: a home of its own, no key of the user's, and in CI no skipping."""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Generator

import hypothesis
import pytest

NO_SKIP = os.environ.get("TESSERA_CI_NO_SKIP") == "1"

# A shell has its background jobs ignore Ctrl-C, and so would every process that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: how long an example takes says how busy the machine is. In CI every run draws the same examples, so that
# a change is blamed for what it broke; at home they differ, which is where new counterexamples come from.
hypothesis.settings.register_profile("tessera", deadline=None, derandomize=NO_SKIP, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tessera")


@pytest.fixture(scope="session", autouse=True)
def private_home(tmp_path_factory: pytest.TempPathFactory) -> Generator[pathlib.Path]:
    """A home folder for this run: XManager, TFDS and W&B keep files there, and W&B looks there for a key."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("WANDB_", "XDG_"))]:
            patch.delenv(name)
        for name in ("TFDS_DATA_DIR", "TESSERA_STORAGE"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(home))
        yield home


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test is a failed one: what is not run there is not known to work."""
    report = yield
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped ({_reason(report)}), and TESSERA_CI_NO_SKIP=1 forbids that"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a file that skips itself as a whole."""
    report = yield
    if NO_SKIP and report.outcome == "skipped":
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped as a whole ({_reason(report)}), and TESSERA_CI_NO_SKIP=1 forbids that"
    return report


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
