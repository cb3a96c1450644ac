"""Which metrics of a study are shown, in which order, and which way is better."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.records import Phase, StudyRecord, TrialRecord, TrialState

_TEST_ORDER = ("test/nll", "test/error", "test/accuracy", "test/ece", "test/brier", "test/diversity", "test/member_nll")
_MAIN_TEST = ("test/nll", "test/error", "test/accuracy", "test/ece", "test/diversity")
_CORRUPTED = ("corrupted/nll", "corrupted/error")
_MEMBERS = ("test/diversity", "test/disagreement", "test/normalised_disagreement", "test/cosine", "test/member_nll")
_SHIFTED = ("corrupt/nll", "corrupt/error", "corrupt/ece")
_COST_ORDER = ("cost/train_gflops", "cost/parameters")
_LESS_IS_BETTER = frozenset({"nll", "error", "ece", "brier", "loss", "fpr95"})
_MORE_IS_BETTER = frozenset({"accuracy", "auroc", "aupr"})


def is_cost(metric: str) -> bool:
    """The metric says what a cell costs, not how good it is."""
    return metric.startswith("cost/")


def direction_of(record: StudyRecord, metric: str) -> str:
    """`minimize`, `maximize`, or empty for a metric of which neither is better, such as diversity."""
    for objective in record.objectives:
        if objective.metric == metric:
            return objective.direction
    name = metric.rpartition("/")[2].rpartition("_")[2]  # a member_nll is read as an nll
    if is_cost(metric) or name in _LESS_IS_BETTER:
        return "minimize"
    return "maximize" if name in _MORE_IS_BETTER else ""


def final_value(trial: TrialRecord, metric: str) -> float | None:
    """The trial's result in one metric; a cost is known before training. None where it has none."""
    if trial.state is TrialState.COMPLETE and metric in trial.metrics:
        return trial.metrics[metric]
    return trial.cost.get(metric)


def columns(record: StudyRecord) -> tuple[str, ...]:
    """Metrics of the arm table: objectives, then other test metrics, corrupted ones, those of other images, costs."""
    objectives = [objective.metric for objective in record.objectives]
    found = _reported(record)
    test = [metric for metric in found if metric.startswith("test/")]
    corrupted = [metric for metric in _CORRUPTED if metric in found]
    cost = [metric for metric in found if is_cost(metric)]
    other = [*corrupted, *shifted(record), *foreign(record), *few_shot(record)]
    return tuple(dict.fromkeys([*objectives, *_ordered(test, _TEST_ORDER), *other, *_ordered(cost, _COST_ORDER)]))


def main_columns(record: StudyRecord) -> tuple[str, ...]:
    """The columns that a page has room for: objectives, the usual test and corrupted metrics, and the usual costs."""
    usual = {objective.metric for objective in record.objectives} | {*_MAIN_TEST, *_CORRUPTED, *_COST_ORDER}
    shown = columns(record)
    return tuple(metric for metric in shown if metric in usual) or shown


def of_members(record: StudyRecord) -> tuple[str, ...]:
    """What tells how much the members of a model differ."""
    found = _reported(record)
    return tuple(metric for metric in _MEMBERS if metric in found)


def shifted(record: StudyRecord, *, kinds: bool = False) -> tuple[str, ...]:
    """Metrics of corrupted test images, means over all kinds and severities; or of each kind, in what the study is about."""
    found = _reported(record)
    if not kinds:
        return tuple(metric for metric in _SHIFTED if metric in found)
    name = quality_metric(record).rpartition("/")[2]
    return tuple(
        sorted(metric for metric in found if metric.startswith("corrupt/") and metric.endswith(f"/{name}") and _depth(metric) == 3)
    )


def foreign(record: StudyRecord) -> tuple[str, ...]:
    """How well images of other data sets are told from the test images."""
    order = ("auroc", "aupr", "fpr95")
    rows = [metric for metric in _reported(record) if metric.startswith("ood/") and metric.rpartition("/")[2] in order]
    return tuple(sorted(rows, key=lambda metric: (metric.rpartition("/")[0], order.index(metric.rpartition("/")[2]))))


def few_shot(record: StudyRecord, *, sets: bool = False) -> tuple[str, ...]:
    """Accuracies of what is learned from a few images a class: means over data sets, or of each set."""
    rows = [metric for metric in _reported(record) if metric.startswith("fewshot/") and _depth(metric) == (3 if sets else 2)]
    return tuple(sorted(rows, key=lambda metric: (metric.rpartition("/")[0], len(metric), metric)))


def quality_metric(record: StudyRecord) -> str:
    """The first objective that is not a cost: what the answer is about. Empty for a study without one."""
    return next((objective.metric for objective in record.objectives if not is_cost(objective.metric)), "")


def cost_metric(record: StudyRecord) -> str:
    """What the frontier is drawn against: the first cost among the objectives, else training GFLOPs, else any cost."""
    shown = [metric for metric in columns(record) if is_cost(metric)]
    return shown[0] if shown else ""


def curve_metric(record: StudyRecord) -> str:
    """The metric whose learning curves are shown: what tuning selects by, else the objective's validation twin."""
    trials = (trial for trial in record.trials if trial.phase is not Phase.UPSTREAM)
    reported = {metric for trial in trials for rung in trial.rungs for metric in rung.metrics}
    twin = "val/" + quality_metric(record).rpartition("/")[2]
    wished = [record.select, twin, quality_metric(record), "train/loss", *sorted(reported)]
    return next((metric for metric in wished if metric in reported), "")


def _reported(record: StudyRecord) -> set[str]:
    """Every cost, and every metric of a finished replicate."""
    found: set[str] = set()
    for trial in record.trials:
        found.update(trial.cost)
        if trial.phase is Phase.REPLICATE and trial.state is TrialState.COMPLETE:
            found.update(trial.metrics)
    return found


def _depth(metric: str) -> int:
    return metric.count("/") + 1


def _ordered(metrics: Iterable[str], first: tuple[str, ...]) -> list[str]:
    rank = {metric: position for position, metric in enumerate(first)}
    return sorted(metrics, key=lambda metric: (rank.get(metric, len(first)), metric))
