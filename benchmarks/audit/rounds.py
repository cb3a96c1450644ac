"""One round of the audit: a study from its first launch to the launch that says that all is done, with kills in between."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import pathlib
import random
import shutil
import time
from collections.abc import Callable, Sequence

from benchmarks.audit.disk import Disk
from benchmarks.audit.findings import Findings, Results, Told, judge
from benchmarks.audit.processes import ORPHAN_S, Processes, Seen, Victim
from benchmarks.audit.tools import Tool, environment, storage
from benchmarks.audit.work import Job, witnesses

LOOK_EVERY_S = 0.05
MOST_FAILURES = 5  # launches in a row that end badly by themselves, until the round is given up
AGAIN_S = 1.0  # at most, from a kill to the same command again
PATIENCE_S = 60.0  # and ten times as long as the undisturbed run: without a kill, that a round may take to come to its end
LAST_WORDS = 2000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What each round of one tool is asked to do.

    Attributes:
        trials: How many.
        workers: At once.
        sleep_s: Of each rung.
        storage: URL of a database server; empty for the tool's own file.
        folder: In which each round has its own.
    """

    trials: int
    workers: int
    sleep_s: float
    storage: str
    folder: pathlib.Path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round came to.

    Attributes:
        findings: Trials at fault.
        results: Of every trial that has some.
        kills: By victim.
        launches: Of the same command.
        failures: Launches that ended by themselves, and badly.
        orphans: Processes that lived 5 s after their launcher was killed.
        took_s: Wall time.
        error: Why it was given up; empty if the tool said that all is done.
        folder: That it ran in.
    """

    findings: Findings
    results: Results
    kills: collections.Counter[str]
    launches: int
    failures: int
    orphans: tuple[str, ...]
    took_s: float
    error: str
    folder: pathlib.Path


@dataclasses.dataclass(slots=True, kw_only=True)
class Killer:
    """Decides when what is killed, by a seed.

    Attributes:
        random: Every draw comes from it.
        left: Kills that may still be made.
        every_s: Mean time between two kills.
        victims: With weights.
        kills: Made so far, by victim.
        wanted: Whom the next kill is to hit, once that is drawn.
    """

    random: random.Random
    left: int
    every_s: float
    victims: dict[Victim, int]
    kills: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    wanted: Victim | None = None

    def wait_s(self) -> float:
        """Until the next kill."""
        return self.random.uniform(0.0, 2 * self.every_s)

    def victim(self) -> Victim:
        """Of the next kill: the same until it was hit, so that those that are not always there get their share."""
        self.wanted = self.wanted or self.random.choices(list(self.victims), list(self.victims.values()))[0]
        return self.wanted

    def pick(self, seen: Sequence[Seen]) -> Seen:
        """One of several workers."""
        return self.random.choice(seen)

    def hit(self, victim: Victim) -> None:
        """A kill that hit something."""
        self.left -= 1
        self.kills[victim.value] += 1
        self.wanted = None


def nobody() -> Killer:
    """Disturbs nothing."""
    return Killer(random=random.Random(0), left=0, every_s=0.0, victims={})


def play(
    tool: Tool, asked: Asked, killer: Killer, undisturbed: Results, *, name: str, patience_s: float, said: Callable[[], None], cuts: bool
) -> Round:
    """Plays one round.

    Args:
        tool: That runs the study.
        asked: The study.
        killer: Disturbs it.
        undisturbed: Results to compare with; empty where this is the undisturbed run.
        name: Of the round's folder.
        patience_s: Without a kill, until the round is given up.
        said: Called after each kill.
        cuts: Everything is killed each time, and the power of the disk cut.

    Raises:
        NoDiskError: Power cannot be cut here.
    """
    started = time.monotonic()
    folder = asked.folder / name
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(Disk(folder)) if cuts else None
        out = folder / "out" if disk is None else disk.folder / "out"
        out.mkdir()
        url = stack.enter_context(storage(asked.storage))
        job = Job(folder=folder, trials=asked.trials, workers=asked.workers, sleep_s=asked.sleep_s, out=out, storage=url)
        processes = stack.enter_context(Processes(tool.role))
        runner = _Runner(tool, job, killer, processes, disk, said)
        error = runner.to_the_end(patience_s)
        try:
            told = tool.told(job)
        except Exception as failure:  # records that cannot be read are a finding, whatever the reason
            told, error = Told(results={}, completions={}), error or f"{type(failure).__name__}: {failure}"
        finished = witnesses(folder / "witnesses.jsonl")["finished"]
        findings = judge(map(str, job.cells()), told, finished, undisturbed or told.results)
        if disk is not None and not findings.is_clean:
            shutil.copytree(out, folder / "out")  # the disk is gone in a moment, and what is on it is evidence
        return Round(
            findings=findings,
            results=told.results,
            kills=runner.kills,
            launches=processes.launches,
            failures=runner.failures,
            orphans=tuple(processes.orphans.values()),
            took_s=time.monotonic() - started,
            error=error,
            folder=folder,
        )


class _Runner:
    """The loop of a round."""

    def __init__(self, tool: Tool, job: Job, killer: Killer, processes: Processes, disk: Disk | None, said: Callable[[], None]) -> None:
        self.kills: collections.Counter[str] = collections.Counter()
        self.failures = 0
        self._tool, self._job, self._killer, self._processes, self._disk, self._said = tool, job, killer, processes, disk, said
        self._log = job.folder / "said.txt"

    def to_the_end(self, patience_s: float) -> str:
        """Launches, kills and launches again until a launch ends well; empty, or why it was given up."""
        in_a_row = 0
        self._launch()
        kill_at = time.monotonic() + self._killer.wait_s()
        deadline = time.monotonic() + patience_s
        while True:
            code = self._processes.ended()
            if code == 0:
                break
            if code is not None:
                self.failures, in_a_row = self.failures + 1, in_a_row + 1
                if in_a_row > MOST_FAILURES:
                    return f"{in_a_row} launches in a row ended with {code}: {self._last_words()}"
                self._launch()
            now = time.monotonic()
            if now > deadline:
                return f"no end after {patience_s:.0f} s without a kill: {self._last_words()}"
            if self._killer.left and now >= kill_at:
                if self._kill():
                    in_a_row, deadline = 0, time.monotonic() + patience_s
                kill_at = time.monotonic() + self._killer.wait_s()
            self._processes.look()
            time.sleep(LOOK_EVERY_S)
        # What was left behind may still be at work, and its results count.
        self._processes.settle(ORPHAN_S + patience_s)
        return ""

    def _launch(self) -> None:
        self._processes.launch(self._tool.command(self._job), environment=environment(self._job), folder=self._job.folder, log=self._log)

    def _kill(self) -> bool:
        victim = Victim.EVERYTHING if self._disk is not None else self._killer.victim()
        if not self._processes.strike(victim, self._killer.pick):
            return False
        self._killer.hit(victim)
        self.kills[victim.value] += 1
        if self._disk is not None:
            self._disk.cut()
        if victim in (Victim.LAUNCHER, Victim.EVERYTHING):
            self._pause(self._killer.random.uniform(0.0, AGAIN_S))
            self._launch()
        self._said()
        return True

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._processes.look()
            time.sleep(LOOK_EVERY_S)

    def _last_words(self) -> str:
        return self._log.read_text("utf-8", errors="replace").strip()[-LAST_WORDS:]
