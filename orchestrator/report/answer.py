"""The answer in a sentence, with its interval; or that there is none yet, and what it would take."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Sequence

from orchestrator.analysis.effects import ArmEffect, baseline_of, effects
from orchestrator.analysis.metrics import direction_of, quality_metric
from orchestrator.analysis.paired import ALPHA, fewest_replicates
from orchestrator.analysis.summary import ArmSummary, summarise
from orchestrator.records import StudyRecord
from orchestrator.report.number import decimals_of_error, fixed, needed_text, p_text, with_error
from orchestrator.report.words import counted, label, listed


class Standing(enum.Enum):
    """How far the question is answered."""

    RESOLVED = "resolved"
    NOT_RESOLVED = "not resolved"
    DESCRIBED = "described"  # there is no baseline to compare with
    OPEN = "open"  # too little is finished


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the study says about its first objective that is not a cost.

    Attributes:
        standing: How far the question is answered.
        headline: One sentence about the arm that leads.
        detail: Sentences about the other arms; may be empty.
    """

    standing: Standing
    headline: str
    detail: str


def answer(record: StudyRecord) -> Answer:
    """The answer of a study, in words."""
    metric, baseline, rows = quality_metric(record), baseline_of(record), summarise(record)
    if not metric:
        return Answer(
            standing=Standing.OPEN, headline="The study has no objective beside costs, so there is nothing to compare.", detail=""
        )
    done, planned = sum(row.n for row in rows), sum(row.planned for row in rows)
    if not done:
        return Answer(standing=Standing.OPEN, headline=f"No answer yet: none of {counted(planned, 'replicate')} is finished.", detail="")
    if not baseline:
        return _described(record, metric, rows)
    if not next(row.n for row in rows if row.name == baseline):
        headline = f"No answer yet: the baseline {baseline} has no finished replicate."
        return Answer(standing=Standing.OPEN, headline=headline, detail="")
    found = [effect for effect in effects(record, metric) if math.isfinite(effect.effect.mean)]
    if not found:
        headline = f"No answer yet: no arm shares a finished replicate of finite {label(metric)} with the baseline {baseline}."
        return Answer(standing=Standing.OPEN, headline=headline, detail="")
    return _compared(metric, found, better=1.0 if direction_of(record, metric) == "maximize" else -1.0)


def _compared(metric: str, found: Sequence[ArmEffect], *, better: float) -> Answer:
    """The lead is the largest resolved gain; without one, the arm that is nearest to a gain."""
    ranked = sorted(found, key=lambda effect: -better * effect.effect.mean)
    gains = [effect for effect in ranked if effect.resolved and better * effect.effect.mean > 0]
    lead = gains[0] if gains else ranked[0]
    rest = [effect for effect in found if effect is not lead]
    headline = _resolved(lead, metric, len(found)) if lead.resolved else _unresolved(lead, metric, len(found))
    if lead.effect.n == 1:
        return Answer(standing=Standing.NOT_RESOLVED, headline=headline, detail="")
    if lead.resolved and not gains and rest:
        headline = f"No arm has a {'lower' if better < 0 else 'higher'} {label(metric)} than {lead.baseline}. The nearest: {headline}"
    standing = Standing.RESOLVED if lead.resolved else Standing.NOT_RESOLVED
    return Answer(standing=standing, headline=headline, detail=_others(rest, metric, len(found)))


def _resolved(effect: ArmEffect, metric: str, compared: int) -> str:
    found = effect.effect
    decimals = decimals_of_error(found.se)
    change = f"{'lowers' if found.mean < 0 else 'raises'} {label(metric)} by {_size(effect, decimals)}"
    return f"{effect.arm} {change} against {effect.baseline} ({_evidence(effect, decimals, compared)})."


def _unresolved(effect: ArmEffect, metric: str, compared: int) -> str:
    found = effect.effect
    decimals = decimals_of_error(found.se)
    if found.n == 1:
        difference = fixed(found.mean, decimals, sign=True)
        enough = fewest_replicates(ALPHA / compared)
        return (
            f"Not resolved: with one replicate there is no interval. {effect.arm} differs from {effect.baseline} by {difference} "
            f"in {label(metric)}; {enough} replicates are the fewest that could resolve it."
        )
    if found.mean == 0 and found.se == 0:
        return f"Not resolved: {effect.arm} and {effect.baseline} have the same {label(metric)} in each of {found.n} replicates."
    difference = f"{fixed(found.mean, decimals, sign=True)} ± {fixed(found.se, decimals)}"
    return (
        f"Not resolved: {effect.arm} differs from {effect.baseline} by {difference} in {label(metric)} "
        f"({_evidence(effect, decimals, compared)}). It would take about {needed_text(effect.needed)} replicates to resolve a "
        "difference of this size and spread."
    )


def _size(effect: ArmEffect, decimals: int) -> str:
    size = fixed(abs(effect.effect.mean), decimals)
    return f"{size} ± {fixed(effect.effect.se, decimals)}" if effect.effect.se > 0 else f"{size} in every replicate"


def _evidence(effect: ArmEffect, decimals: int, compared: int) -> str:
    found = effect.effect
    holm = f", corrected for {compared} arms {p_text(effect.p_holm)}" if compared > 1 else ""
    p = p_text(found.p)
    interval = f"{fixed(found.low, decimals)} to {fixed(found.high, decimals)}"
    return f"95 % interval {interval}, p {p if p.startswith('<') else '= ' + p}{holm}, {counted(found.n, 'paired replicate')}"


def _others(rest: Sequence[ArmEffect], metric: str, compared: int) -> str:
    """What the other arms do, in a sentence for each kind."""
    kinds = {
        f"Lower {label(metric)}: ": [effect.arm for effect in rest if effect.resolved and effect.effect.mean < 0],
        f"Higher {label(metric)}: ": [effect.arm for effect in rest if effect.resolved and effect.effect.mean > 0],
        "Not resolved: ": [_with_needed(effect) for effect in rest if not effect.resolved],
    }
    sentences = [f"{words}{listed(_shortened(names))}." for words, names in kinds.items() if names]
    most = max((effect.effect.n for effect in rest), default=0)
    if (fewest := fewest_replicates(ALPHA / compared)) > most > 1 and rest:
        sentences.append(f"With {counted(compared, 'arm')} to compare, no effect can be resolved by fewer than {fewest} replicates.")
    return " ".join(sentences)


def _with_needed(effect: ArmEffect) -> str:
    if not math.isfinite(effect.needed):
        return effect.arm
    return f"{effect.arm} (about {needed_text(effect.needed)} replicates)"


def _shortened(names: list[str], *, most: int = 8) -> list[str]:
    return names if len(names) <= most else [*names[: most - 1], f"{len(names) - most + 1} more"]


def _described(record: StudyRecord, metric: str, rows: Sequence[ArmSummary]) -> Answer:
    """Without a baseline: which arm has the best mean."""
    known = [(row.name, row.means[metric]) for row in rows if metric in row.means and math.isfinite(row.means[metric].mean)]
    if not known:
        headline = f"No answer yet: no arm has a finite {label(metric)}."
        return Answer(standing=Standing.OPEN, headline=headline, detail="")
    most = direction_of(record, metric) == "maximize"
    name, mean = (max if most else min)(known, key=lambda item: item[1].mean)
    value = f"{with_error(mean, decimals_of_error(mean.se))} over {counted(mean.n, 'replicate')}"
    if len(known) == 1:
        headline = f"{name} reaches a {label(metric)} of {value}."
    else:
        headline = f"{name} has the {'highest' if most else 'lowest'} {label(metric)} of {len(known)} arms: {value}."
    detail = "No arm is marked as the baseline, so no effect is computed." if len(rows) > 1 else ""
    return Answer(standing=Standing.DESCRIBED, headline=headline, detail=detail)
