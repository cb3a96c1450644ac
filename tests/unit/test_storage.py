"""Where a ledger is looked for, and what is said of it."""

from __future__ import annotations

import pathlib
import string

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import LedgerError
from orchestrator.storage import VARIABLE, place_of, redacted, storage_of

OUT = pathlib.Path("runs")
SECRET = st.text(st.sampled_from([*string.ascii_letters, *string.digits, *string.punctuation, "é"]), min_size=6)


def test_the_option_goes_before_the_environment_and_that_before_the_folder() -> None:
    environ = {VARIABLE: "postgresql://db/two"}
    assert storage_of("postgresql://db/one", environ, OUT) == "postgresql+psycopg://db/one"
    assert storage_of("", environ, OUT) == "postgresql+psycopg://db/two"
    assert storage_of("", {VARIABLE: ""}, OUT) == str(pathlib.Path.cwd() / "runs" / "ledger.db")


@pytest.mark.parametrize("option", ["some/ledger.db", "sqlite:///some/ledger.db"])
def test_a_path_is_where_the_command_was_given_wherever_it_is_read_later(option: str) -> None:
    assert storage_of(option, {}, OUT) == str(pathlib.Path.cwd() / "some" / "ledger.db")


def test_another_database_is_refused() -> None:
    with pytest.raises(LedgerError, match="a ledger cannot be kept there\n  found:    a mysql URL"):
        storage_of("mysql://ann:secret@db/x", {}, OUT)


@given(SECRET)
def test_no_password_is_ever_shown(secret: str) -> None:
    url = sa.URL.create("postgresql", username="ann", password=secret, host="db", database="x").render_as_string(hide_password=False)
    storage = storage_of(url, {}, OUT)
    assert sa.make_url(storage).password == secret, "and it arrives whole"
    assert place_of(storage) == "postgresql://ann:***@db/x"
    assert redacted(f"'{url}' was not found") == "'postgresql://ann:***@db/x' was not found"


@given(SECRET)
def test_a_password_that_was_not_escaped_is_not_shown_either(secret: str) -> None:
    """Nor any part of it, wherever the text is taken for the end of the password."""
    assert redacted(f"postgresql://ann:{secret}@db/x") == "postgresql://ann:***@db/x"


def test_a_password_among_the_parameters_is_hidden() -> None:
    url = "postgresql://db/x?user=ann&password=secret&sslpassword=secret"
    assert "secret" not in redacted(url)
    assert "secret" not in place_of(storage_of(url, {}, OUT))


def test_more_than_one_at_sign_is_refused_with_how_to_write_it() -> None:
    with pytest.raises(LedgerError, match="more than one @") as caught:
        storage_of("postgresql://ann:half@secret@db/x", {}, OUT)
    assert "secret" not in str(caught.value)
    assert "%40" in str(caught.value)
