"""What the runs come to: a row for each rival and size of job, ratios, and the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contest import RIVALS, TESSERA, Run
from benchmarks.rivals.workload import Results

COMPARED = ("val/nll", "test/nll")
PROCESS_PER_TRIAL = ("process_all_threads", "process_one_thread")
HAND_LOOP = ("hand_loop_alone", "hand_loop_processes")
TITLES = {rival.name: rival.title for rival in RIVALS}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One rival at one size of job: its fastest run, and how all of them went.

    Attributes:
        rival: Its name.
        steps: Of each trial.
        trials: How many.
        error: Why there is no figure.
        at_once: Trials that were trained at the same time.
        s_a_trial: Wall seconds, on the whole machine, over the number of trials.
        cpu_s_a_trial: CPU seconds of all processes.
        peak_gib: Memory of all processes at once.
        over_tessera: How many times Tessera's seconds a trial.
        difference: Largest difference to Tessera's results in NLL, over trials and splits.
        same_bits: Whether there is none at all.
        phases: Mean seconds a trial in its phases, where the rival says them.
        to_last_trial_s: Tessera only: seconds a trial without the report.
        provenance: Tessera only: how lanes were run.
        left_behind: Processes that had to be killed after the command had ended.
        repeats: Wall seconds, CPU seconds (waited for, and seen), and load before, of each repeat.
    """

    rival: str
    steps: int
    trials: int
    error: str
    at_once: int = 1
    s_a_trial: float | None = None
    cpu_s_a_trial: float | None = None
    peak_gib: float | None = None
    over_tessera: float | None = None
    difference: float | None = None
    same_bits: bool | None = None
    phases: Mapping[str, float] = dataclasses.field(default_factory=dict)
    to_last_trial_s: float | None = None
    provenance: Sequence[Mapping[str, str]] = ()
    left_behind: int = 0
    repeats: Sequence[Mapping[str, float]] = ()


def standings(runs: Sequence[Run]) -> list[Standing]:
    """A row for each rival, from all its runs of one size of job."""
    by_rival: dict[str, list[Run]] = {}
    for run in runs:
        by_rival.setdefault(run.rival, []).append(run)
    best = {name: _fastest(of_rival) for name, of_rival in by_rival.items()}
    ours = best.get(TESSERA.name)
    return [_standing(best[name], of_rival, ours) for name, of_rival in by_rival.items()]


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The headline figures: how many times Tessera's seconds a trial the better form of a rival takes.

    Of rounds with the same number of steps the one with the most trials counts: the other was made small on purpose.
    """

    def over(rivals: Sequence[str], steps: int) -> float | None:
        most = max((row["trials"] for row in rows if row["steps"] == steps), default=0)
        found = [
            row["over_tessera"]
            for row in rows
            if row["rival"] in rivals and (row["steps"], row["trials"]) == (steps, most) and row["over_tessera"] is not None
        ]
        return min(found, default=None)

    return {
        "packed_over_process_per_trial": over(PROCESS_PER_TRIAL, 20),
        "packed_over_process_per_trial_100": over(PROCESS_PER_TRIAL, 100),
        "packed_over_process_per_trial_1000": over(PROCESS_PER_TRIAL, 1000),
        "over_ray_reuse": over(("ray_reuse",), 100),
        "over_hand_loop": over(HAND_LOOP, 100),
    }


def bounds(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float | None]]:
    """What any way to run these trials is bounded by: their steps, as the loop by hand takes them once it is compiled.

    Args:
        rows: Every standing.
    """
    found = []
    for row in rows:
        if row["rival"] != "hand_loop_processes" or row["error"] or row["steps"] < 2:
            continue
        size = (row["steps"], row["trials"])
        alone_s = row["phases"]["other_steps"] * row["steps"] / (row["steps"] - 1) / min(row["at_once"], row["trials"])
        beside = [other for other in rows if other["rival"] in PROCESS_PER_TRIAL and (other["steps"], other["trials"]) == size]
        most = min((other["s_a_trial"] / alone_s for other in beside if not other["error"]), default=None)
        found.append({"steps": size[0], "trials": size[1], "steps_alone_s": alone_s, "most_over_process_per_trial": most})
    return found


def text(document: Mapping[str, Any]) -> str:
    """The table and the headline, for a terminal."""
    where, rows = document["machine"], document["rows"]
    lines = [
        f"{where['cores']} cores · {where['processor']} · {where['memory_gib']} GiB · {where['platform']} {where['device']}",
        f"{where['date']} · {where['system']} · Python {where['python']}",
        " · ".join(f"{name} {version}" for name, version in where["versions"].items()),
        f"load average {document['load_average']['start']} at the start, {document['load_average']['end']} at the end",
    ]
    for steps, trials in dict.fromkeys((row["steps"], row["trials"]) for row in rows):
        of_size = [row for row in rows if (row["steps"], row["trials"]) == (steps, trials)]
        lines += ["", *_round(of_size, document["asked"]["trials"])]
        lines += [
            f"their steps alone take {bound['steps_alone_s']:.2f} s a trial: "
            f"no way to run them is more than {bound['most_over_process_per_trial']:.1f}× as fast as process per trial"
            for bound in document["bounds"]
            if (bound["steps"], bound["trials"]) == (steps, trials) and bound["most_over_process_per_trial"] is not None
        ]
    return "\n".join([*lines, "", *_headline(document)])


def _round(rows: Sequence[Mapping[str, Any]], asked: int) -> list[str]:
    steps, trials = rows[0]["steps"], rows[0]["trials"]
    fewer = "" if trials == asked else f" (not {asked})"
    lines = [
        f"{trials} trials{fewer} of {steps} steps",
        f"{'':42} {'s a trial':>9} {'CPU s':>7} {'GiB':>6} {'× Tessera':>9}  largest difference in NLL",
    ]
    for row in rows:
        title = f"{TITLES[row['rival']]:42}"
        if row["error"]:
            lines.append(f"{title} {row['error'].splitlines()[0][:100]}")
            continue
        same = "" if row["difference"] is None else "none" if row["same_bits"] else f"{row['difference']:.1e}"
        ratio = "" if row["over_tessera"] is None else f"{row['over_tessera']:.2f}"
        lines.append(f"{title} {row['s_a_trial']:9.2f} {row['cpu_s_a_trial']:7.2f} {row['peak_gib']:6.2f} {ratio:>9}  {same}".rstrip())
        if row["to_last_trial_s"] is not None:
            lines.append(f"{'  to the end of the last trial':42} {row['to_last_trial_s']:9.2f}")
    return lines


def _headline(document: Mapping[str, Any]) -> list[str]:
    said = {
        "packed_over_process_per_trial": "process per trial (its better setting) over Tessera, 20 steps",
        "packed_over_process_per_trial_100": "                                                   100 steps",
        "packed_over_process_per_trial_1000": "                                                  1000 steps",
        "over_ray_reuse": "Ray Tune with reused actors over Tessera, 100 steps",
        "over_hand_loop": "loop by hand (its better form) over Tessera, 100 steps",
    }
    return [f"{words:62} {'not measured' if document[key] is None else f'{document[key]:.2f}×'}" for key, words in said.items()]


def _fastest(runs: Sequence[Run]) -> Run:
    """The fastest run that has a result; without one, the first."""
    good = [run for run in runs if not run.error and run.measured is not None]
    return min(good, key=lambda run: run.measured.wall_s) if good else runs[0]


def _standing(best: Run, runs: Sequence[Run], ours: Run | None) -> Standing:
    row = Standing(rival=best.rival, steps=best.steps, trials=best.trials, error=best.error)
    if best.error or best.measured is None:
        return row
    comparable = ours is not None and not ours.error and ours.measured is not None
    difference = _difference(best.results, ours.results) if comparable else None
    return dataclasses.replace(
        row,
        at_once=best.at_once,
        s_a_trial=best.measured.wall_s / best.trials,
        cpu_s_a_trial=best.measured.cpu_s / best.trials,
        peak_gib=best.measured.peak_bytes / 2**30,
        over_tessera=best.measured.wall_s / ours.measured.wall_s if comparable else None,
        difference=difference,
        same_bits=None if difference is None else difference == 0.0,
        phases=_phases(best.results),
        to_last_trial_s=None if best.to_last_trial_s is None else best.to_last_trial_s / best.trials,
        provenance=best.provenance,
        left_behind=best.measured.left_behind,
        repeats=[_repeat(run) for run in runs if run.measured is not None],
    )


def _repeat(run: Run) -> dict[str, float]:
    measured = run.measured
    assert measured is not None
    return {
        "wall_s": measured.wall_s,
        "waited_cpu_s": measured.waited_cpu_s,
        "seen_cpu_s": measured.seen_cpu_s,
        "most_processes": measured.most_processes,
        "load_before": run.load_before,
    }


def _difference(theirs: Results, ours: Results) -> float:
    """Largest difference in what is compared; NaN counts as equal to NaN only."""
    pairs = [(theirs[index][name], ours[index][name]) for index in ours for name in COMPARED]
    return max(0.0 if a == b or (a != a and b != b) else abs(a - b) for a, b in pairs)


def _phases(results: Results) -> dict[str, float]:
    names = sorted({name for metrics in results.values() for name in metrics if name.startswith("s/")})
    return {name.removeprefix("s/"): sum(metrics[name] for metrics in results.values()) / len(results) for name in names}
