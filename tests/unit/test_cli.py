"""What the command line takes."""

from __future__ import annotations

import itertools
import pathlib

import pytest

from orchestrator import cli

WORDS = (["studies/ablation.py"], ["--out", "elsewhere"], ["plan"])


@pytest.mark.parametrize("order", [order for order in itertools.permutations(WORDS) if order.index(WORDS[0]) < order.index(WORDS[2])])
def test_options_may_stand_anywhere(order: tuple[list[str], ...]) -> None:
    options = cli.parser().parse_intermixed_args([word for words in order for word in words])
    assert (str(options.study), str(options.out), options.command) == ("studies/ablation.py", "elsewhere", "plan")


def test_a_run_waits_ten_minutes_for_its_ledger_unless_told_otherwise() -> None:
    grammar = cli.parser()
    assert grammar.parse_intermixed_args(["study.py"]).patience == 600.0
    assert grammar.parse_intermixed_args(["study.py", "--patience", "0"]).patience == 0.0


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "long"])
def test_a_patience_that_is_no_time_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.parser().parse_intermixed_args(["study.py", f"--patience={text}"])
    assert f"'{text}' is not a number of seconds from 0" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--storag=postgresql://ann:s3cret@db/x"], ["run", "postgresql://ann:s3cret@db/x"]])
def test_a_password_in_a_word_that_nobody_expects_is_not_repeated(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["study.py", *words])
    said = capsys.readouterr().err
    assert "s3cret" not in said
    assert "ann:***@db" in said


def test_what_goes_wrong_with_a_url_is_said_without_its_password(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    for more in ([], ["--json"]):
        assert cli.main([f"{tmp_path}/postgresql://ann:s3cret@db/x.py", "status", *more]) == 2
    printed = capsys.readouterr()
    assert "no study file" in printed.err
    assert "s3cret" not in printed.err + printed.out
