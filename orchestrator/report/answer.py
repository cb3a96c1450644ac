"""The answer in a sentence, with its interval; or that there is none yet, and what it would take."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Sequence

from orchestrator.analysis.best import best_arms
from orchestrator.analysis.effects import ArmEffect, baseline_of, effects
from orchestrator.analysis.metrics import direction_of, quality_metric
from orchestrator.analysis.paired import ALPHA
from orchestrator.analysis.power import fewest_replicates
from orchestrator.analysis.rounds import Verdict
from orchestrator.analysis.summary import ArmSummary, summarise
from orchestrator.records import StudyRecord
from orchestrator.report.number import decimals_of, fixed, needed_text, p_text, with_error
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
        claim: One sentence about the arm that leads, without its full stop.
        evidence: The interval and the p behind it; may be empty.
        detail: Further sentences; may be empty.
    """

    standing: Standing
    claim: str
    evidence: str = ""
    detail: str = ""

    @property
    def headline(self) -> str:
        """Claim and evidence as one sentence."""
        return f"{self.claim} ({self.evidence})." if self.evidence else f"{self.claim}."


def answer(record: StudyRecord) -> Answer:
    """The answer of a study, in words."""
    metric, baseline, rows = quality_metric(record), baseline_of(record), summarise(record)
    if not metric:
        return Answer(standing=Standing.OPEN, claim="The study has no objective beside costs, so there is nothing to compare")
    done, planned = sum(row.n for row in rows), sum(row.planned for row in rows)
    if not done:
        return Answer(standing=Standing.OPEN, claim=f"No answer yet: none of {counted(planned, 'replicate')} is finished")
    if not baseline or len(rows) == 1:
        return _described(record, metric, rows)
    if not next(row.n for row in rows if row.name == baseline):
        return Answer(standing=Standing.OPEN, claim=f"No answer yet: the baseline {baseline} has no finished replicate")
    found = [effect for effect in effects(record, metric) if math.isfinite(effect.effect.mean)]
    if not found:
        claim = f"No answer yet: no arm shares a finished replicate of finite {label(metric)} with the baseline {baseline}"
        return Answer(standing=Standing.OPEN, claim=claim)
    unknown = [effect.arm for effect in effects(record, metric) if effect.effect.n and not math.isfinite(effect.effect.mean)]
    better = 1.0 if direction_of(record, metric) == "maximize" else -1.0
    derived = frozenset(arm.name for arm in record.arms if arm.is_derived)
    return _compared(metric, found, unknown, frozenset(best_arms(record, metric)), derived, better=better)


def _compared(
    metric: str, found: Sequence[ArmEffect], unknown: list[str], best: frozenset[str], derived: frozenset[str], *, better: float
) -> Answer:
    """The lead is the resolved gain among the best arms that the study lists first: the replicates cannot tell these apart.

    Else it is the largest resolved gain; without one, the arm that is nearest to a gain. The question is about what was trained: a
    derived arm, which averages several, leads only where nothing else is compared.
    """
    ranked = sorted((effect for effect in found if effect.arm not in derived), key=lambda effect: -better * effect.effect.mean)
    ranked = ranked or sorted(found, key=lambda effect: -better * effect.effect.mean)
    gains = [effect for effect in ranked if effect.resolved and better * effect.effect.mean > 0]
    listed_first = [effect for effect in found if effect in gains and effect.arm in best]
    lead = (listed_first or gains or ranked)[0]
    rest = [effect for effect in found if effect is not lead]
    decimals = decimals_of(lead.effect.difference)
    claim = _gain_or_loss(lead, metric, decimals) if lead.resolved else _difference(lead, metric, decimals)
    if lead.resolved and not gains and rest:
        claim = f"No arm has a {'lower' if better < 0 else 'higher'} {label(metric)} than {lead.baseline}; the nearest, {claim}"
    return Answer(
        standing=Standing.RESOLVED if lead.resolved else Standing.NOT_RESOLVED,
        claim=claim,
        evidence=_evidence(lead, decimals),
        detail=" ".join(filter(None, [_what_it_takes(lead), *_others(rest, metric), _infinite(unknown)])),
    )


def _gain_or_loss(effect: ArmEffect, metric: str, decimals: int) -> str:
    found = effect.effect
    size = fixed(abs(found.mean), decimals)
    size = f"{size} ± {fixed(found.se, decimals)}" if found.se > 0 else f"{size} in every replicate"
    return f"{effect.arm} {'lowers' if found.mean < 0 else 'raises'} {label(metric)} by {size} against {effect.baseline}"


def _difference(effect: ArmEffect, metric: str, decimals: int) -> str:
    found = effect.effect
    if found.mean == 0 and found.se == 0:
        return f"Not resolved: {effect.arm} and {effect.baseline} have the same {label(metric)} in each of {found.n} replicates"
    error = f" ± {fixed(found.se, decimals)}" if found.se > 0 else ""
    size = f"{fixed(found.mean, decimals, sign=True)}{error}"
    return f"Not resolved: {effect.arm} differs from {effect.baseline} by {size} in {label(metric)}"


def _evidence(effect: ArmEffect, decimals: int) -> str:
    found = effect.effect
    if math.isnan(found.p):
        return "no look was taken yet, so there is no interval" if effect.repeated else "one replicate, so there is no interval"
    p = p_text(found.p)
    holm = f", corrected for {effect.compared} arms {p_text(effect.p_holm)}" if effect.compared > 1 else ""
    interval = f"{fixed(found.low, decimals)} to {fixed(found.high, decimals)}"
    kind = "repeated 95\u00a0% interval" if effect.repeated else "95\u00a0% interval"
    return f"{kind} {interval}, p {p if p.startswith('<') else '= ' + p}{holm}, {_pairs(effect)}"


def _pairs(effect: ArmEffect) -> str:
    """What the pairs of a comparison are."""
    if effect.members == 1:
        return counted(effect.effect.n, "paired replicate")
    return f"{counted(effect.effect.n, 'paired group')} of {effect.members} replicates"


def _what_it_takes(lead: ArmEffect) -> str:
    """How many replicates would resolve the lead; empty if it is resolved."""
    if lead.resolved or (lead.repeated and math.isnan(lead.needed)):
        return ""
    if lead.verdict is Verdict.ALIKE:
        return "It is settled: the difference is smaller than what the study asks for."
    if lead.verdict is Verdict.OPEN:
        return "Its replicates are still being added."
    fewest, have = (lead.members * pairs for pairs in (fewest_replicates(ALPHA / lead.compared), lead.effect.n))
    if have < fewest and not lead.repeated:
        over = f" over {lead.compared} arms" if lead.compared > 1 else ""
        over += f" in groups of {lead.members}" if lead.members > 1 else ""
        return (
            f"With {counted(have, 'replicate')} no difference can be resolved, however large: an exact test{over} takes "
            f"at least {fewest}." + (f" This one takes about {needed_text(lead.needed)}." if fewest < lead.needed < math.inf else "")
        )
    if math.isinf(lead.needed):
        return ""
    return f"It would take about {needed_text(lead.needed)} replicates to resolve a difference of this size and spread."


def _others(rest: Sequence[ArmEffect], metric: str) -> list[str]:
    """What the other arms do, in a sentence for each kind; nothing where no interval is known."""
    rest = [effect for effect in rest if not math.isnan(effect.effect.p)]
    kinds = {
        f"Lower {label(metric)}: ": [_with_size(effect) for effect in rest if effect.resolved and effect.effect.mean < 0],
        f"Higher {label(metric)}: ": [_with_size(effect) for effect in rest if effect.resolved and effect.effect.mean > 0],
        "Not resolved: ": [_with_needed(effect) for effect in rest if not effect.resolved],
    }
    return [f"{words}{listed(_shortened(names))}." for words, names in kinds.items() if names]


def _infinite(unknown: list[str]) -> str:
    return f"Not finite in some replicate: {listed(_shortened(unknown))}." if unknown else ""


def _with_size(effect: ArmEffect) -> str:
    found, decimals = effect.effect, decimals_of(effect.effect.difference)
    error = f" ± {fixed(found.se, decimals)}" if found.se > 0 else ""
    return f"{effect.arm} (by {fixed(abs(found.mean), decimals)}{error})"


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
        return Answer(standing=Standing.OPEN, claim=f"No answer yet: no arm has a finite {label(metric)}")
    most = direction_of(record, metric) == "maximize"
    name, mean = (max if most else min)(known, key=lambda item: item[1].mean)
    value = f"{with_error(mean, decimals_of(mean))} over {counted(mean.n, 'replicate')}"
    if len(known) == 1:
        claim = f"{name} reaches a {label(metric)} of {value}"
    else:
        claim = f"{name} has the {'highest' if most else 'lowest'} {label(metric)} of {len(known)} arms: {value}"
    detail = "No arm is marked as the baseline, so no effect is computed." if len(rows) > 1 else ""
    return Answer(standing=Standing.DESCRIBED, claim=claim, detail=detail)
