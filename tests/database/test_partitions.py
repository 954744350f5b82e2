"""The history of ingests in partitions: made of a table in use, and thinned, with nothing lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from dbbbatch.database import connect, partitions
from dbbbatch.database.models.ingest import IngestEvent, IngestState
from dbbbatch.errors import ConfigError
from tests.support.ingesting import Ingesting
from tests.support.site import Site

#: What a query gives of the whole history.
EVENTS = "SELECT file_id, target_id, status, run_id, number FROM ingest_event ORDER BY id"


@pytest.fixture
def ingesting(site: Site) -> Iterator[Ingesting]:
    """Yield a site with one file that was ingested."""
    made = Ingesting(site).configure()
    made.store("2026-11-24/a.fits")
    assert made.run() == 0
    yield made
    connect.disconnect()


def asked(sql: str) -> list[Any]:
    """Return the rows of a query."""
    return list(connect.execute(sql).fetchall())


@pytest.mark.parametrize("backend", ["postgresql"])
class TestPartitionEvents:
    """`partitions.partition_events`."""

    def test_events_stay_and_new_ones_go_to_their_year(self, ingesting: Ingesting) -> None:
        before = asked(EVENTS)
        partitions.partition_events()
        ingesting.store("2026-11-25/b.fits")
        assert ingesting.run() == 0
        assert asked(EVENTS)[: len(before)] == before
        assert ingesting.events("2026-11-25/b.fits") == ["UNTRIED", "PENDING", "SUCCESS"]
        assert asked("SELECT count(*) FROM ingest_attempt") == [(2,)]
        year = connect.now().year + 2
        IngestEvent.record([(*before[0][:3], datetime(year, 5, 1), None, "", "", 99, 1)])
        assert asked(f"SELECT number FROM ingest_event_{year}") == [(1,)]

    def test_what_is_later_than_every_year_is_kept_too(self, ingesting: Ingesting) -> None:
        partitions.partition_events()
        event = asked(EVENTS)[0]
        later = datetime(connect.now().year + 3, 5, 1)
        IngestEvent.record([(*event[:3], later, None, "", "", 99, 1)])
        assert partitions.partition_events() == partitions.partition_events()
        assert asked("SELECT number FROM ingest_event_other") == [(1,)]

    @pytest.mark.parametrize("step", range(4))
    def test_a_kill_after_any_step_is_made_good_by_the_next_call(
        self, ingesting: Ingesting, monkeypatch: pytest.MonkeyPatch, step: int
    ) -> None:
        before, steps = asked(EVENTS), 0

        def killed(really: Callable[..., Any]) -> Callable[..., Any]:
            def write(*arguments: Any) -> Any:
                nonlocal steps
                if steps == step:
                    raise KeyboardInterrupt
                steps += 1
                return really(*arguments)

            return write

        with monkeypatch.context() as patched:
            for name in ("write", "long_write"):
                patched.setattr(connect, name, killed(getattr(connect, name)))
            with pytest.raises(KeyboardInterrupt):
                partitions.partition_events()
        ingesting.store("2026-11-25/b.fits")
        assert ingesting.run() == 0
        assert "ingest_event_other" in partitions.partition_events()
        assert asked(EVENTS)[: len(before)] == before
        assert ingesting.run() == 0

    def test_a_check_left_long_ago_is_replaced_before_it_refuses_events(
        self, ingesting: Ingesting
    ) -> None:
        year = connect.now().year
        connect.execute(
            f"ALTER TABLE ingest_event ADD CONSTRAINT ingest_event_before_{year}"
            f" CHECK (start_time < '{year}-01-01') NOT VALID"
        )
        assert f"ingest_event_{year + 2}" in partitions.partition_events()
        ingesting.store("2026-11-25/b.fits")
        assert ingesting.run() == 0

    def test_rights_and_views_of_others_follow(self, ingesting: Ingesting) -> None:
        connect.proxy.execute_sql(
            "CREATE VIEW ours AS SELECT id, message LIKE '%%?' AS odd FROM ingest_event"
        )
        connect.execute("DROP ROLE IF EXISTS dbb_adds")
        connect.execute("CREATE ROLE dbb_adds")
        connect.execute("GRANT SELECT, INSERT ON ingest_event TO dbb_adds")
        connect.execute("GRANT SELECT ON ours TO dbb_adds")
        partitions.partition_events()
        file, target = asked(EVENTS)[0][:2]
        with connect.proxy.atomic():
            connect.execute("SET LOCAL ROLE dbb_adds")
            IngestEvent.record([(file, target, "SUCCESS", connect.now(), None, "", "", 99, 1)])
            assert asked("SELECT count(*) FROM ours") == [(4,)]
        connect.execute("DROP OWNED BY dbb_adds")
        connect.execute("DROP ROLE dbb_adds")

    def test_a_materialized_view_is_named_and_nothing_changes(self, ingesting: Ingesting) -> None:
        connect.execute("CREATE MATERIALIZED VIEW kept AS SELECT id FROM ingest_event")
        with pytest.raises(ConfigError, match="kept"):
            partitions.partition_events()
        assert ingesting.run() == 0

    def test_older_scripts_are_refused(self, ingesting: Ingesting) -> None:
        partitions.partition_events()
        from dbbbatch import __version__

        assert asked("SELECT oldest_script FROM schema_version WHERE number = 21") == [
            (__version__,)
        ]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_sqlite_has_no_partitions(ingesting: Ingesting) -> None:
    with pytest.raises(ConfigError, match="PostgreSQL"):
        partitions.partition_events()


class TestThin:
    """`IngestEvent.thin`."""

    @pytest.fixture
    def events(self, ingesting: Ingesting, request: pytest.FixtureRequest) -> Callable[..., None]:
        """Return what records events of the file, so many days ago."""
        (row,) = IngestState.select(IngestState.file_id, IngestState.target_id).tuples()
        connect.execute("DELETE FROM ingest_event")
        numbers = iter(range(1, 100))

        def record(*ago: int) -> None:
            now = connect.now()
            rows = [
                (*row, "FAILURE", now - timedelta(days=days), None, "", str(days), 9, next(numbers))
                for days in ago
            ]
            connect.write(IngestEvent.record, rows)

        return record

    def thinned(self, most: int = 100) -> list[int]:
        """Thin what is older than ten days, to the end; return the ages of what is left."""
        before, more = connect.now() - timedelta(days=10), True
        while more:
            _, more = connect.write(IngestEvent.thin, before, most)
        return [int(age) for (age,) in asked("SELECT message FROM ingest_event ORDER BY id")]

    @pytest.mark.parametrize("most", [1, 2, 100])
    def test_the_latest_old_event_and_all_new_ones_stay(
        self, events: Callable[..., None], most: int
    ) -> None:
        events(40, 30, 20, 5, 4)
        assert self.thinned(most) == [20, 5, 4]

    def test_the_latest_stays_however_old(self, events: Callable[..., None]) -> None:
        events(400, 300)
        assert self.thinned() == [300]
        assert self.thinned() == [300]

    def test_what_was_kept_goes_when_later_ones_are_old(self, events: Callable[..., None]) -> None:
        events(40, 30)
        assert self.thinned() == [30]
        events(20, 15, 1)
        assert self.thinned() == [15, 1]

    def test_a_time_in_the_future_stops_nothing(self, events: Callable[..., None]) -> None:
        events(40, -900, 30, 20, 1)
        assert self.thinned() == [-900, 20, 1]

    @pytest.mark.parametrize("backend", ["postgresql"])
    def test_events_of_partitions_are_thinned(self, events: Callable[..., None]) -> None:
        events(40, 30)
        partitions.partition_events()
        events(20, 1)
        assert self.thinned() == [20, 1]
