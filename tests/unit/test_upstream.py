"""What trials start from: what the words mean, what is planned when, and which mistakes are found."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import pathlib
import pickle
from collections.abc import Sequence

import pytest

from orchestrator import Adaptive, Arm, Ensemble, File, Grid, LogUniform, Objective, Replicates, Study, Tune, Upstream, Values
from orchestrator.check import study_problems
from orchestrator.config import Overlay, flatten
from orchestrator.designs import Design
from orchestrator.diff import Change, Place, difference
from orchestrator.durable import write_row
from orchestrator.errors import StudyError
from orchestrator.estimate import Speed, estimate, work_left
from orchestrator.files import Content, content_of, keep, kept_at
from orchestrator.plan import Planner
from orchestrator.planned import Outcome, Plan, PlannedTrial
from orchestrator.records import Phase, TrialState
from orchestrator.replicates import TUNING_SEED
from trainers.curves import Curves, CurvesConfig

BASE = flatten(CurvesConfig())
FIRST = Upstream("first", {"family": "wide", "steps": 40})
EACH = Upstream("each", {"family": "wide", "steps": 20}, seeds="paired")
CHAINED = Upstream("chained", {"steps": 60, "start": FIRST}, seeds="paired")
KEPT = Outcome(state=TrialState.COMPLETE, metrics={"val/nll": 1.0}, kept=True)
FAILED = Outcome(state=TrialState.FAILED, metrics={})


def study(arms: Sequence[Design], protocol: object = Replicates(2), **more: object) -> Study:
    more = {"base": CurvesConfig(), **more}
    return Study(name="s", trainer="trainers.curves:Curves", arms=arms, protocol=protocol, **more)  # type: ignore[arg-type]


def planner(arms: Sequence[Design], protocol: object = Replicates(2), **more: object) -> Planner:
    made = study(arms, protocol, **more)
    assert not study_problems(made, Curves(), flatten(made.base))
    return Planner(made, Curves(), flatten(made.base))


def upstream_keys(plan: Plan, name: str) -> list[str]:
    return [trial.key for row in plan.upstream if row.name == name for trial in (*row.trials, *row.held)]


def problems(*arms: Design, trainer: Curves | None = None, base: CurvesConfig | None = None, **more: object) -> str:
    base = base or CurvesConfig()
    found = study_problems(study(arms, base=base, **more), trainer or Curves(), flatten(base))
    return "\n".join(map(str, found))


def test_sources_are_the_same_when_all_that_was_written_of_them_is() -> None:
    assert Upstream("a", {"steps": 1}) == Upstream("a", {"steps": 1})
    assert Upstream("a", {"steps": 1}) != Upstream("a", {"steps": 2})
    assert Upstream("a", {"keep": 1}) != Upstream("a", {"keep": True})  # type: ignore[dict-item]
    assert Upstream("a") != "a"
    assert File(pathlib.Path("x/y.npz")) == File("x/y.npz") != "x/y.npz"
    assert {FIRST: 1}[Upstream("first", {"family": "wide", "steps": 40})] == 1
    for source in (FIRST, CHAINED, File("x")):
        assert pickle.loads(pickle.dumps(source)) == copy.deepcopy(source) == source
        assert f"{source}" == str(source) == (source.path if isinstance(source, File) else source.name)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Upstream(" "), "an upstream has no name"),
        (lambda: Upstream("a", seeds="both"), "no rule for seeds"),
        (lambda: Upstream("a", seed=-1), "has no seed"),
        (lambda: Upstream("a", seeds="paired", seed=3), "a seed that nothing uses"),
        (lambda: File(""), "a file has no path"),
    ],
)
def test_a_source_that_says_nothing_is_refused(make: object, words: str) -> None:
    with pytest.raises(StudyError, match=words):
        make()  # type: ignore[operator]


def test_one_shared_upstream_trial_serves_every_trial_and_paired_ones_follow_the_seed() -> None:
    subject = planner([Arm("shared", {"start": FIRST}), Arm("paired", {"start": EACH}), Arm("fresh")], Replicates(3, first_seed=4))
    plan = subject.plan({})
    assert [(row.name, [trial.seed for trial in row.trials]) for row in plan.upstream] == [("first", [0]), ("each", [4, 5, 6])]
    shared, paired, _ = plan.arms
    starts = [[trial.cell.config["start"] for trial in arm.held] for arm in (shared, paired)]
    assert starts[0] == [f"trial:{key}" for key in upstream_keys(plan, "first")] * 3
    assert starts[1] == [f"trial:{key}" for key in upstream_keys(plan, "each")]
    assert {trial.phase for row in plan.upstream for trial in row.trials} == {Phase.UPSTREAM}
    assert all(row.cell.config["keep"] is True and row.cell.config["start"] == "" for row in plan.upstream)
    assert len({trial.cell.signature for arm in plan.arms for trial in (*arm.trials, *arm.held)}) == 1, (
        "what a lane starts from is no program"
    )


def test_what_starts_from_a_trial_is_planned_once_that_has_left_its_parameters() -> None:
    subject = planner([Arm("a", {"start": FIRST}), Arm("fresh")])
    plan = subject.plan({})
    (key,) = upstream_keys(plan, "first")
    assert [(len(arm.trials), len(arm.held), arm.pending) for arm in plan.arms] == [(0, 2, 2), (2, 0, 0)]
    assert min(trial.position for trial in plan.trials) == plan.upstream[0].trials[0].position < 0, "it is trained first"
    for not_yet in (TrialState.PLANNED, TrialState.LEASED):
        assert subject.plan({key: Outcome(state=not_yet, metrics={})}).arms[0].pending == 2
    assert subject.plan({key: Outcome(state=TrialState.COMPLETE, metrics={})}).arms[0].pending == 2, "it left none"
    ready = subject.plan({key: KEPT})
    assert [trial.key for trial in ready.arms[0].trials] == [trial.key for trial in plan.arms[0].held]
    assert ready.upstream == plan.upstream


def test_a_look_at_an_upstream_is_a_look_at_what_starts_from_it_and_at_nothing_else() -> None:
    subject = planner([Arm("a", {"start": FIRST}), Arm("fresh")])
    plan = subject.plan({})
    later = subject.plan({upstream_keys(plan, "first")[0]: KEPT}, since=plan, moved={"first"})
    assert (len(later.arms[0].trials), later.arms[1] is plan.arms[1]) == (2, True)
    assert subject.plan({}, since=plan, moved={"fresh"}).arms[0] is plan.arms[0]


def test_a_chain_is_trained_link_by_link() -> None:
    subject = planner([Arm("a", {"start": CHAINED})], Replicates(2))
    plan = subject.plan({})
    assert [(row.name, len(row.trials), len(row.held)) for row in plan.upstream] == [("first", 1, 0), ("chained", 0, 2)]
    first = dict.fromkeys(upstream_keys(plan, "first"), KEPT)
    second = subject.plan(first)
    assert [(row.name, len(row.trials), len(row.held)) for row in second.upstream] == [("first", 1, 0), ("chained", 2, 0)]
    one, other = upstream_keys(plan, "chained")
    third = subject.plan(first | {one: KEPT})
    assert [trial.seed for trial in third.arms[0].trials] == [0], "replicate 0 waits for nobody but its own"
    assert subject.plan(first | {one: KEPT, other: KEPT}).arms[0].pending == 0


def test_tuning_trials_start_from_one_upstream_at_the_tuning_seed() -> None:
    protocol = Tune(trials=2, select="val/nll", then=Replicates(2))
    subject = planner([Arm("a", {"start": EACH})], protocol, nuisance={"learning_rate": LogUniform(1e-3, 1)})
    plan = subject.plan({})
    assert [trial.seed for trial in plan.upstream[0].trials] == [TUNING_SEED, 0, 1], "replicates' are trained meanwhile"
    starts = dict.fromkeys(upstream_keys(plan, "each"), KEPT)
    tuning = subject.plan(starts).arms[0].trials
    assert [trial.phase for trial in tuning] == [Phase.TUNE] * 2
    done = starts | {trial.key: Outcome(state=TrialState.COMPLETE, metrics={"val/nll": 1.0}) for trial in tuning}
    assert [trial.phase for trial in subject.plan(done).arms[0].trials] == [Phase.TUNE] * 2 + [Phase.REPLICATE] * 2


def test_what_to_start_from_can_be_an_axis_and_be_tuned() -> None:
    arms = planner([Grid({"start": Values(FIRST, EACH)})]).plan({}).arms
    assert [arm.name for arm in arms] == ["start=first", "start=each"]
    protocol = Tune(trials=2, select="val/nll", then=Replicates(1))
    subject = planner([Arm("a")], protocol, nuisance={"start": Values(FIRST, EACH)})
    plan = subject.plan({})
    first, each = upstream_keys(plan, "first"), upstream_keys(plan, "each")
    scored = {trial.key: Outcome(state=TrialState.COMPLETE, metrics={"val/nll": float(i)}) for i, trial in enumerate(plan.arms[0].held)}
    after = subject.plan({first[0]: KEPT, each[0]: KEPT} | scored)
    assert after.arms[0].selected is not None
    assert str(after.arms[0].selected["start"]) == str(plan.arms[0].held[0].point["start"])


def test_what_waits_for_a_failed_upstream_has_failed_in_tuning_and_is_never_planned() -> None:
    protocol = Tune(trials=2, select="val/nll", then=Replicates(1))
    subject = planner([Arm("a")], protocol, nuisance={"start": Values(FIRST, EACH)})
    plan = subject.plan({})
    (first,), (each,) = upstream_keys(plan, "first"), upstream_keys(plan, "each")
    good = subject.plan({first: KEPT, each: FAILED}).arms[0].trials[0]
    arm = subject.plan({first: KEPT, each: FAILED, good.key: KEPT}).arms[0]
    assert arm.selected is not None
    assert arm.selected["start"] == FIRST
    assert [len(arm.trials), len(arm.held)] == [2, 1]


def test_results_stay_though_their_upstream_is_lost() -> None:
    subject = planner([Arm("a", {"start": FIRST})])
    plan = subject.plan({})
    (key,) = upstream_keys(plan, "first")
    one, other = (trial.key for trial in plan.arms[0].held)
    redone = {key: Outcome(state=TrialState.PLANNED, metrics={}), one: Outcome(state=TrialState.COMPLETE, metrics={})}
    after = subject.plan(redone | {other: Outcome(state=TrialState.PREEMPTED, metrics={})})
    assert ([trial.key for trial in after.arms[0].trials], [trial.key for trial in after.arms[0].held]) == ([one], [other])
    places = [Place(key=other, arm="a", phase=Phase.REPLICATE, index=1, state=TrialState.PREEMPTED)]
    assert not difference(after, places, {}).orphaned, "it waits, and is still a part of the study"


def test_more_replicates_start_from_more_upstream_trials() -> None:
    rule = Adaptive(metric="test/nll", first=3, most=5)
    subject = planner([Arm("fresh", baseline=True), Arm("a", {"start": EACH})], rule, objectives=[Objective("test/nll")])
    plan = subject.plan({})
    assert len(upstream_keys(plan, "each")) == 3
    known = dict.fromkeys(upstream_keys(plan, "each"), KEPT)

    def scored(trials: Sequence[PlannedTrial]) -> dict[str, Outcome]:
        values = {trial.key: (-1.0) ** trial.index * (trial.index + 1) * (1 + (trial.arm == "a")) for trial in trials}
        return {key: Outcome(state=TrialState.COMPLETE, metrics={"test/nll": value}) for key, value in values.items()}

    known |= scored([trial for arm in subject.plan(known).arms for trial in arm.trials])
    more = subject.plan(known)
    assert more.arms[1].replicates > 3
    assert len(upstream_keys(more, "each")) == more.arms[1].replicates
    assert [trial.index for trial in more.arms[1].held] == list(range(3, more.arms[1].replicates))


def changes(before: Planner, after: Planner) -> tuple[set[tuple[str, Phase]], int]:
    """What is new after an edit of a study all of which was complete, and how many trials are the same."""

    def whole(subject: Planner) -> Plan:
        plan = subject.plan({})
        for _ in range(3):
            plan = subject.plan({trial.key: KEPT for trial in plan.trials})
        return plan

    plan, states = whole(after), dict.fromkeys((trial.key for trial in whole(before).trials), TrialState.COMPLETE)
    found = difference(plan, [], states).changes
    new = {(trial.arm, trial.phase) for trial, change in found if change is not Change.CACHED}
    return new, sum(change is Change.CACHED for _, change in found)


def test_another_upstream_makes_other_trials_of_what_starts_from_it_and_no_others() -> None:
    def arms(first: Upstream) -> list[Arm]:
        return [Arm("fresh"), Arm("a", {"start": first}), Arm("b", {"start": Upstream("on", {"size": 50, "start": first})})]

    before = planner(arms(FIRST))
    longer = Upstream("first", {"family": "wide", "steps": 60})
    new, same = changes(before, planner(arms(longer)))
    up, own = Phase.UPSTREAM, Phase.REPLICATE
    assert (new, same) == ({("first", up), ("on", up), ("a", own), ("b", own)}, 2)
    assert changes(before, planner(arms(Upstream("renamed", FIRST.overrides)))) == (set(), 8)


def test_a_base_that_starts_from_an_upstream_is_no_start_of_the_upstream_itself() -> None:
    subject = planner([Arm("a"), Arm("b", {"start": ""})], base=CurvesConfig(start=FIRST))
    plan = subject.plan({})
    assert [row.cell.config["start"] for row in plan.upstream] == [""]
    assert [len(arm.held) for arm in plan.arms] == [2, 0]


def test_an_upstream_is_part_of_the_estimate_and_what_starts_from_it_comes_later() -> None:
    plan = planner([Arm("a", {"start": FIRST})], Replicates(2)).plan({})
    work = work_left(plan, difference(plan, [], {}), Curves(), {})
    assert [(batch.phase, batch.trials, batch.steps) for row in work for batch in row.batches] == [
        (Phase.UPSTREAM, 1, 40),
        (Phase.REPLICATE, 2, 200),
    ]
    speed = {row.signature: Speed(compile_s=0.0, lane_s=0.0, lane_step_s=1.0) for row in work}
    found = estimate(work, speed, 2, overhead_s=0.0)
    assert found is not None
    assert found.seconds == 40 + 100, "two workers cannot begin before the upstream trial has ended"


def test_a_file_is_named_by_what_it_holds(tmp_path: pathlib.Path) -> None:
    one, moved, other = (tmp_path / name for name in ("one.npz", "moved.bin", "other.npz"))
    one.write_bytes(b"weights")
    moved.write_bytes(b"weights")
    other.write_bytes(b"weightz")
    addresses = [content_of(File(path)).address for path in (one, moved, other)]
    assert addresses[0] == addresses[1] != addresses[2]
    assert addresses[0] == f"sha256:{hashlib.sha256(b'weights').hexdigest()}"


def test_a_checkpoint_in_parts_is_one_content_whatever_its_prefix(tmp_path: pathlib.Path) -> None:
    def released(prefix: str, data: bytes = b"data") -> Content:
        (tmp_path / f"{prefix}.index").write_bytes(b"index")
        (tmp_path / f"{prefix}.data-00000-of-00001").write_bytes(data)
        return content_of(File(tmp_path / prefix))

    first = released("vmoe_s32")
    assert first.address == released("renamed").address == content_of(File(tmp_path / "renamed.index")).address
    assert first.address != released("other", b"date").address
    keep({File(tmp_path / "vmoe_s32"): first}, tmp_path / "out")
    kept = kept_at(first.address, tmp_path / "out")
    assert kept is not None
    assert sorted(path.name for path in kept.parent.iterdir()) == ["parameters.data-00000-of-00001", "parameters.index"]


def test_editing_the_original_harms_no_kept_file_and_a_damaged_one_is_kept_anew(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "w.npz"
    path.write_bytes(b"weights")
    content = content_of(File(path))
    keep({File(path): content}, tmp_path)
    kept = kept_at(content.address, tmp_path)
    assert kept is not None
    assert kept.suffix == ".npz"
    with path.open("r+b") as file:
        file.write(b"W")
    assert kept.read_bytes() == b"weights"
    keep({File(path): content}, tmp_path)  # what is whole is left alone, and the original not asked for
    kept.chmod(0o644)
    kept.write_bytes(b"torn")
    with pytest.raises(StudyError, match="was changed while the study was being launched"):
        keep({File(path): content}, tmp_path)
    path.write_bytes(b"weights")
    keep({File(path): content}, tmp_path)
    assert kept.read_bytes() == b"weights"
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_every_mistake_with_sources_is_told_at_once(tmp_path: pathlib.Path) -> None:
    class Leaves(Curves):
        keeps = "steps"

    text = problems(
        Arm("text", {"start": "weights/x.npz"}),
        Arm("astray", {"size": FIRST}),
        Arm("gone", {"start": File(tmp_path / "none.npz")}),
        Arm("first", {"start": FIRST}),
        Arm("two", {"start": Upstream("first", {"steps": 1})}),
        Arm("wrong", {"start": Upstream("wrong", {"stepz": 1, "start": "plain"})}),
        trainer=Leaves(),
        base=CurvesConfig(start="base.npz", family=File("x")),  # type: ignore[arg-type]
    )
    for words in (
        "arm 'text': start is given as text",
        "arm 'astray': size takes no artifact",
        f"File('{tmp_path}/none.npz') cannot be read",
        "2 different upstreams are named 'first'",
        "an upstream and an arm are named 'first'",
        "upstream 'wrong': 'stepz' is not a key of CurvesConfig",
        "upstream 'wrong': start is given as text",
        "keeps = 'steps', which is no boolean outside of the program",
        "the base config: start is given as text",
        "the base config: family takes no artifact",
    ):
        assert words in text, words


def test_a_trainer_that_leaves_no_parameters_is_told_of() -> None:
    class Plain(Curves):
        keeps = ""

    assert "leave no parameters to start from" in problems(Arm("a", {"start": FIRST}), trainer=Plain())
    assert not problems(Arm("a", {"start": ""}), trainer=Plain())


def test_an_ensemble_of_arms_that_differ_in_what_they_start_from_is_one_of_different_trials() -> None:
    arms = [Arm("a", {"start": FIRST}), Arm("b", {"start": EACH}), Ensemble("both", of=["a", "b"])]
    assert not problems(*arms)  # type: ignore[arg-type]


def test_a_resolved_config_holds_addresses_only(tmp_path: pathlib.Path) -> None:
    write_row(tmp_path / "w.json", {"nll": 1.0})
    plan = planner([Arm("a", {"start": File(tmp_path / "w.json")}), Arm("b", {"start": CHAINED})]).plan({})
    for trial in (*plan.trials, *plan.held):
        assert isinstance(trial.cell.config, Overlay)
        for config in (dict(trial.cell.config), trial.cell.config.flat()):
            assert type(config["start"]) is str
    assert dataclasses.replace(plan.arms[0].trials[0], index=1).cell.config["start"] == content_of(File(tmp_path / "w.json")).address
