"""The ledgers that the conformance tests run on."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Generator

import pytest
import sqlalchemy as sa

from orchestrator.ledger import Ledger
from tests.ledgers import need_postgresql, postgresql

MakeUrl = Callable[[], str]


@pytest.fixture(scope="session")
def sqlite_urls(tmp_path_factory: pytest.TempPathFactory) -> MakeUrl:
    """Copies of one migrated file: migrating costs 200 ms, copying nothing."""
    folder = tmp_path_factory.mktemp("ledgers")
    Ledger.open(folder / "template.sqlite").close()
    numbers = itertools.count()

    def make() -> str:
        return str(shutil.copy(folder / "template.sqlite", folder / f"{next(numbers)}.sqlite"))

    return make


@pytest.fixture(scope="session")
def postgresql_urls() -> Generator[MakeUrl]:
    """Databases made from one migrated template, on a server of our own."""
    need_postgresql()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(postgresql()).url
        admin = sa.create_engine(server.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
        stack.callback(admin.dispose)
        numbers = itertools.count()

        def make() -> str:
            name = f"ledger{next(numbers)}"
            with admin.connect() as connection:
                connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE migrated")
            return server.set(database=name).render_as_string()

        with admin.connect() as connection:
            connection.exec_driver_sql("CREATE DATABASE migrated")
        Ledger.open(server.set(database="migrated").render_as_string()).close()
        yield make


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest) -> str:
    """An empty ledger."""
    make: MakeUrl = request.getfixturevalue(f"{request.param}_urls")
    return make()


@pytest.fixture
def ledger(url: str) -> Generator[Ledger]:
    """An empty ledger, open."""
    with Ledger.open(url, create=False) as opened:
        yield opened
