"""The command line of one trainer."""

from __future__ import annotations

import io
import json
import pathlib
import signal
import subprocess
import sys

import pytest

from orchestrator.contract import Lane, OrchestratorError, content_key
from tests import disks
from tests.trainers.scripted import lane
from trainers import solo
from trainers.curves import Curves
from trainers.vision import Vision

ROOT = pathlib.Path(__file__).parents[2]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit, match=r"^[0-9]+$") as left:
        solo.main(Curves(), arguments)
    output = capsys.readouterr()
    return int(str(left.value)), output.out, output.err


def test_the_result_is_json_and_the_progress_is_not_in_it(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    code, out, err = run(capsys, "--out", str(tmp_path), "--seed", "3", "--set", "steps=40")
    result = json.loads(out)
    assert (code, result["seed"], result["steps"], result["config"]["steps"]) == (0, 3, 40, 40)
    assert {"test/nll", "val/nll", "cost/parameters"} <= result["metrics"].keys()
    assert [line.split()[:2] for line in err.splitlines() if line.startswith("step")] == [["step", "20"], ["step", "40"]]


def test_the_same_command_again_trains_nothing(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    first = run(capsys, "--out", str(tmp_path))
    assert run(capsys, "--out", str(tmp_path)) == (0, first[1], "")


def test_a_damaged_result_is_computed_again_to_the_same_bytes(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    first = run(capsys, "--out", str(tmp_path))
    [result] = tmp_path.rglob("result.json")
    disks.flip(result, place=40)
    code, out, err = run(capsys, "--out", str(tmp_path))
    assert (code, out) == first[:2]
    assert "is passed over" in err


@pytest.mark.parametrize("closed", ["file/inside", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_is_said_before_anything_is_trained(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path, closed: str
) -> None:
    (tmp_path / "file").touch()
    code, out, err = run(capsys, "--out", str(tmp_path / closed))
    assert (code, out) == (2, "")
    assert err.startswith("the output folder cannot be written\n  found:")


def test_the_key_is_that_of_the_trial_in_a_study(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    from orchestrator.keys import cell_key, trial_key

    result = json.loads(run(capsys, "--out", str(tmp_path), "--seed", "5")[1])
    assert result["key"] == trial_key(cell_key(Curves.name, Curves.version, result["config"]), 5)


def test_print_config_can_be_given_back(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    _, printed, _ = run(capsys, "--print-config", "--set", "learning_rate=0.5", "--set", "family=wide")
    file = tmp_path / "config.json"
    file.write_text(printed)
    assert run(capsys, "--print-config", "--config", str(file)) == (0, printed, "")


def test_every_mistake_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--set", "learning_rat=1", "--set", "steps=many", "--set", "size=0")
    assert (code, out) == (2, "")
    assert "'learning_rat' is not a key of CurvesConfig" in err
    assert "closest: learning_rate" in err
    assert "steps has the wrong type" in err
    assert "size is out of range" in err


def test_a_config_that_cannot_be_is_refused() -> None:
    with pytest.raises(OrchestratorError, match="members"):
        solo.read_config(Vision(), None, ["model.members=3"])


@pytest.mark.parametrize(
    ("text", "said"), [("{", "is not JSON"), ("[]", "does not hold a config"), (None, "no such file")], ids=["torn", "list", "missing"]
)
def test_a_config_file_that_is_none_is_refused(tmp_path: pathlib.Path, text: str | None, said: str) -> None:
    file = tmp_path / "config.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(OrchestratorError, match=said):
        solo.read_config(Curves(), file, [])


def test_an_assignment_without_a_value_is_refused() -> None:
    with pytest.raises(OrchestratorError, match="--set takes KEY=VALUE"):
        solo.read_config(Curves(), None, ["steps"])


def test_a_lane_that_diverges_exits_1_and_says_where(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    code, out, err = run(capsys, "--out", str(tmp_path), "--set", "learning_rate=2", "--set", "diverge_above=1")
    assert (code, out) == (1, "")
    assert "diverged at step 20" in err


def test_ctrl_c_checkpoints_and_the_same_command_goes_on(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "trainers.curves", "--out", str(tmp_path), "--set", "sleep_s=0.3"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while not process.stderr.readline().startswith("step"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "the same command goes on from here" in err
    resumed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "step     20" not in resumed.stderr, "it began again"
    alone = solo.SoloHost(lane_like(json.loads(resumed.stdout), tmp_path / "other"))
    Curves().train(alone)
    assert alone.final is not None
    assert alone.final.metrics["test/nll"] == json.loads(resumed.stdout)["metrics"]["test/nll"]


def lane_like(result: dict, folder: pathlib.Path) -> Lane:
    config = {**result["config"], "sleep_s": 0.0}
    return Lane(key=content_key(config), config=config, seed=result["seed"], folder=folder)


def test_the_second_ctrl_c_does_not_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """A trainer that never looks whether to stop is left all the same."""

    def deaf(self: Curves, host: solo.SoloHost) -> None:
        del self
        signal.raise_signal(signal.SIGINT)
        assert host.stopping
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("still there")

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Curves, "train", deaf)
    with pytest.raises(SystemExit, match="130"):
        solo.main(Curves(), ["--out", str(tmp_path)])
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_in_the_middle_of_a_line_is_heard(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    class Interrupted(io.StringIO):
        """Stands for a buffered stream that a signal interrupts: it refuses to be entered again by the signal's handler."""

        entered = False

        def write(self, text: str) -> int:
            if self.entered:
                raise RuntimeError("reentrant call")
            self.entered = True
            try:
                if text.startswith("step"):
                    signal.raise_signal(signal.SIGINT)
                return super().write(text)
            finally:
                self.entered = False

    monkeypatch.setattr(sys, "stderr", Interrupted())
    with pytest.raises(SystemExit, match="130"):
        solo.main(Curves(), ["--out", str(tmp_path)])
    assert "the same command goes on from here" in sys.stderr.getvalue()


def test_a_lane_is_pulled_once() -> None:
    host = solo.SoloHost(lane(Curves(), pathlib.Path(), {}))
    assert (len(host.pull(4)), len(host.pull(4))) == (1, 0)
