"""Names of metrics and states as a reader sees them."""

from __future__ import annotations

from orchestrator.analysis.missing import NOT_PLANNED
from orchestrator.records import TrialState

_SPLITS = {"test": "test", "val": "validation", "train": "training", "corrupted": "corrupted", "cost": ""}
_NAMES = {
    "nll": ("NLL", "nats"),
    "member_nll": ("NLL of single members", "nats"),
    "error": ("error", "share"),
    "accuracy": ("accuracy", "share"),
    "ece": ("ECE", ""),
    "brier": ("Brier score", ""),
    "diversity": ("diversity", "KL, nats"),
    "train_gflops": ("training GFLOPs", "per image"),
    "inference_gflops": ("inference GFLOPs", "per image"),
    "parameters": ("parameters", ""),
}
_STATES = {
    TrialState.PLANNED.value: "waiting",
    TrialState.LEASED.value: "running",
    TrialState.PAUSED.value: "waiting at a rung",
    TrialState.PREEMPTED.value: "waiting after a preemption",
    TrialState.LOST.value: "waiting after a lost worker",
    TrialState.COMPLETE.value: "complete",
    TrialState.STOPPED.value: "stopped",
    TrialState.DIVERGED.value: "diverged",
    TrialState.FAILED.value: "failed",
    NOT_PLANNED: "not planned yet",
}


def label(metric: str) -> str:
    """A metric inside a sentence.

    >>> label("test/nll"), label("cost/train_gflops"), label("val/top_5")
    ('test NLL', 'training GFLOPs', 'validation top 5')
    """
    split, _, name = metric.rpartition("/")
    words = _NAMES[name][0] if name in _NAMES else name.replace("_", " ")
    return f"{_SPLITS.get(split, split)} {words}".strip()


def heading(metric: str) -> str:
    """A metric at the head of a column: the first letter is a capital.

    >>> heading("test/nll")
    'Test NLL'
    """
    words = label(metric)
    return words[:1].upper() + words[1:]


def short_heading(metric: str) -> str:
    """A metric at the head of a narrow column: test results are what such a table holds, so that is not said.

    >>> short_heading("test/nll"), short_heading("corrupted/nll")
    ('NLL', 'Corrupted NLL')
    """
    words = label(metric).removeprefix("test ")
    return words[:1].upper() + words[1:]


def axis_title(metric: str) -> str:
    """A metric on an axis, with its unit.

    >>> axis_title("cost/train_gflops")
    'Training GFLOPs (per image)'
    """
    unit = unit_of(metric)
    return f"{heading(metric)} ({unit})" if unit else heading(metric)


def unit_of(metric: str) -> str:
    """Unit of a metric; empty where there is none or none is known."""
    name = metric.rpartition("/")[2]
    return _NAMES[name][1] if name in _NAMES else ""


def state_words(state: str) -> str:
    """What a state means to someone who waits for a number."""
    return _STATES[state]


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "replicate"), counted(1200, "trial")
    ('1 replicate', '1,200 trials')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(names: list[str]) -> str:
    """Names in a sentence.

    >>> listed(["A", "B", "C"])
    'A, B and C'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
