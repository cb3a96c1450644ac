"""Where a study's ledger is kept: `--storage`, else the environment, else a file under `--out`.

The URL of a database may hold a password. So it goes from the launcher to its processes in their environment, which other
users cannot read, and never over a command line or through a file; whatever is written or shown has the password taken out.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Mapping

from orchestrator.errors import LedgerError

VARIABLE = "TESSERA_STORAGE"

# To the last @ of the word: an @ that should have been written as %40 leaves no half of a password behind.
_PASSWORD = re.compile(r"([A-Za-z][\w+.-]*://[^\s:/@]*):\S*@")
_PARAMETER = re.compile(r"([?&][^=&\s]*password[^=&\s]*=)[^&\s]*", re.IGNORECASE)


def storage_of(option: str, environ: Mapping[str, str], out: pathlib.Path) -> str:
    """The absolute path, or the whole URL, of the ledger that a command line means.

    Args:
        option: Of `--storage`; empty where it was not given.
        environ: The environment.
        out: Of `--out`.

    Raises:
        LedgerError: A ledger cannot be kept at such a place.
    """
    from orchestrator.ledger.opening import parse

    given = option or environ.get(VARIABLE, "")
    if "://" in given and given.count("@") > 1:
        raise LedgerError(
            "the URL of the ledger cannot be read: it has more than one @",
            expected="postgresql://user:password@host:5432/database",
            fix="in a user name or password write @ as %40, : as %3A, / as %2F and % as %25",
        )
    url = parse(given or out / "ledger.db")
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=False)


def hand_down(storage: str) -> None:
    """Lets every process that this one starts find the ledger."""
    os.environ[VARIABLE] = storage


def handed_down(place: str) -> str:
    """The ledger's URL or path, in a process that a launcher started.

    Args:
        place: What its command line says of it, for people: right for a path, without the password of a URL.
    """
    return os.environ.get(VARIABLE) or place


def place_of(storage: str) -> str:
    """Where a ledger is, as said to a person: a path, or a URL without its password.

    >>> place_of("postgresql://ann:secret@db/sweeps")
    'postgresql://ann:***@db/sweeps'
    """
    from orchestrator.ledger.database import place
    from orchestrator.ledger.opening import parse

    return place(parse(storage))


def redacted(text: str) -> str:
    """A text with the passwords of the URLs in it taken out.

    >>> redacted("--storage=postgresql://ann:p@ss@db/sweeps?sslpassword=s2 --json")
    '--storage=postgresql://ann:***@db/sweeps?sslpassword=*** --json'
    """
    return _PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))
