"""Names of metrics and states as a reader sees them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from orchestrator.analysis.missing import NOT_PLANNED
from orchestrator.records import Cause, TrialState

_SPLITS = {"test": "test", "val": "validation", "train": "training", "corrupted": "corrupted", "cost": ""}
_NAMES = {
    "nll": ("NLL", "nats"),
    "member_nll": ("NLL of single members", "nats"),
    "error": ("error", "share"),
    "accuracy": ("accuracy", "share"),
    "ece": ("ECE", ""),
    "brier": ("Brier score", ""),
    "diversity": ("diversity", "KL, nats"),
    "disagreement": ("disagreement of members", "share"),
    "normalised_disagreement": ("disagreement over error", ""),
    "cosine": ("cosine of members", ""),
    "load_cv": ("spread of expert load", "over its mean"),
    "auroc": ("AUROC", ""),
    "aupr": ("AUPR", ""),
    "fpr95": ("FPR at 95\u00a0% TPR", ""),
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


# Why an attempt ended before its time, as what happened to a trial; `orchestrator.records.Cause` says what each means.
_CAUSES = {
    Cause.RAISED: "raised an exception",
    Cause.OUT_OF_MEMORY: "ran out of memory",
    Cause.CRASHED: "crashed its process",
    Cause.KILLED: "was killed",
    Cause.LOST: "lost its worker",
    Cause.ORPHANED: "was orphaned by its launcher",
    Cause.PREEMPTED: "was preempted",
}
_SHOTS = re.compile(r"(\d+)shot_(\w+)")


def label(metric: str) -> str:
    """A metric inside a sentence.

    >>> label("test/nll"), label("cost/train_gflops"), label("val/top_5")
    ('test NLL', 'training GFLOPs', 'validation top 5')
    >>> label("corrupt/nll"), label("corrupt/gaussian_noise/nll"), label("ood/waves/auroc"), label("fewshot/svhn/5shot_accuracy")
    ('NLL under corruptions', 'NLL under gaussian noise', 'AUROC against waves', '5-shot accuracy on svhn')
    """
    split, _, name = metric.rpartition("/")
    group, _, of = split.partition("/")
    words = _words(name)
    match group:
        case "corrupt":
            return f"{words} under {of.replace('_', ' ') if of else 'corruptions'}"
        case "ood":
            return f"{words} against {of}" if of else words
        case "fewshot":
            return f"{words} on {of}" if of else words
        case _:
            return f"{_SPLITS.get(split, split)} {words}".strip()


def cause_words(causes: Sequence[Cause]) -> str:
    """What happened to a trial, each cause once.

    >>> cause_words([Cause.KILLED, Cause.OUT_OF_MEMORY, Cause.KILLED])
    'was killed twice, ran out of memory'
    """
    times = {1: "", 2: " twice"}
    return ", ".join(f"{_CAUSES[cause]}{times.get(n, f' {n} times')}" for cause, n in Counter(causes).items())


def heading(metric: str) -> str:
    """A metric at the head of a column: the first letter is a capital.

    >>> heading("test/nll")
    'Test NLL'
    """
    words = label(metric)
    return words[:1].upper() + words[1:]


def short_heading(metric: str) -> str:
    """A metric at the head of a narrow column: test results are what such a table holds, so that is not said.

    Nor is what stands above a table of all kinds of corruption.

    >>> short_heading("test/nll"), short_heading("corrupted/nll"), short_heading("corrupt/fog/nll")
    ('NLL', 'Corrupted NLL', 'Fog')
    """
    kind = metric.startswith("corrupt/") and metric.count("/") == 2
    words = metric.split("/")[1].replace("_", " ") if kind else label(metric).removeprefix("test ")
    return words[:1].upper() + words[1:]


def axis_title(metric: str) -> str:
    """A metric on an axis, with its unit.

    >>> axis_title("cost/train_gflops")
    'Training GFLOPs (per image)'
    """
    unit = unit_of(metric)
    return f"{heading(metric)} ({unit})" if unit else heading(metric)


def _words(name: str) -> str:
    shots = _SHOTS.fullmatch(name)
    if shots is not None:
        return f"{shots[1]}-shot {_words(shots[2])}"
    return _NAMES[name][0] if name in _NAMES else name.replace("_", " ")


def unit_of(metric: str) -> str:
    """Unit of a metric; empty where there is none or none is known."""
    name = metric.rpartition("/")[2]
    shots = _SHOTS.fullmatch(name)
    name = shots[2] if shots else name
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
