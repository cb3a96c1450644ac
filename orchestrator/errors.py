"""What is said when a user, a file or a machine is at fault: what is wrong, what was found, what would be right, what to do."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import difflib
from collections.abc import Generator, Iterable, Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One mistake, in the form in which it is printed.

    Attributes:
        what: One line that names the thing that is wrong.
        found: The offending value, as the user wrote it.
        expected: What would have been accepted.
        fix: What to do now.
    """

    what: str
    found: str = ""
    expected: str = ""
    fix: str = ""

    def __str__(self) -> str:
        rows = (("found:    ", self.found), ("expected: ", self.expected), ("fix:      ", self.fix))
        return "\n".join([self.what, *(f"  {label}{text}" for label, text in rows if text)])


class OrchestratorError(Exception):
    """A mistake that the command line prints without a traceback, with exit code 2.

    >>> print(OrchestratorError("no such file: a.py", fix="check the path"))
    no such file: a.py
      fix:      check the path
    """

    def __init__(self, what: str, *, found: str = "", expected: str = "", fix: str = "") -> None:
        self.problems: tuple[Problem, ...] = (Problem(what, found, expected, fix),)
        super().__init__(str(self.problems[0]))

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> OrchestratorError:
        """One error that reports several problems at once, each as its own block."""
        rows = tuple(problems)
        error = cls.__new__(cls)
        error.problems = rows
        Exception.__init__(error, "\n\n".join(str(row) for row in rows))
        return error


class StudyError(OrchestratorError):
    """The study file, or something it names, cannot be run as written."""


_collector: contextvars.ContextVar[list[Problem] | None] = contextvars.ContextVar("collector", default=None)


@contextlib.contextmanager
def collected() -> Generator[list[Problem]]:
    """Inside, `refuse` gathers problems instead of raising, so that a study file's mistakes are reported all at once."""
    problems: list[Problem] = []
    token = _collector.set(problems)
    try:
        yield problems
    finally:
        _collector.reset(token)


def refuse(what: str, *, found: str = "", expected: str = "", fix: str = "") -> None:
    """Turns down what a study file says: raises at once, or while a file is loaded adds to its list of problems.

    Raises:
        StudyError: Nothing collects.
    """
    problems = _collector.get()
    if problems is None:
        raise StudyError(what, found=found, expected=expected, fix=fix)
    problems.append(Problem(what, found, expected, fix))


class LedgerError(OrchestratorError):
    """The ledger cannot be opened, read or written."""


class LaunchError(OrchestratorError):
    """Workers cannot be started where they were asked to run."""


class DataError(OrchestratorError):
    """A dataset is missing or cannot be prepared."""


def did_you_mean(word: str, known: Sequence[str], *, at_most: int = 3) -> str:
    """Names the nearest valid words, or lists them all when there are few.

    >>> did_you_mean("optim.lr", ["optim.learning_rate", "optim.warmup_steps", "model.k"])
    'one of 3 keys; closest: optim.learning_rate, optim.warmup_steps'
    """
    wanted, last = word.rpartition(".")[2], {name.rpartition(".")[2]: name for name in known}
    close = [name for end, name in last.items() if "".join(part[:1] for part in end.split("_")) == wanted and "_" in end]
    close += difflib.get_close_matches(word, known, n=at_most, cutoff=0.5)
    close += [last[end] for end in difflib.get_close_matches(wanted, list(last), n=at_most, cutoff=0.6)]
    close = list(dict.fromkeys(close))[:at_most]
    if len(known) <= 6 and not close:
        return "one of " + ", ".join(known)
    return f"one of {len(known)} keys" + (f"; closest: {', '.join(close)}" if close else "")
