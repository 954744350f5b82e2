"""Leases: one host at a time runs a component, and who lost its lease records nothing."""

from __future__ import annotations

import dataclasses
import select
import time

import psycopg
import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.lease import ComponentLease
from dbbbatch.database.models.run import Pause
from dbbbatch.database.postgresql import Postgresql
from dbbbatch.errors import LeaseLost
from dbbbatch.files.fence import fence
from dbbbatch.passes import runner, watch
from tests.passes.test_alerts import silent
from tests.support.site import Site, tree

ELSEWHERE = "boot of another machine 1:2"


class Section:
    name = "a"


class Work(runner.Work):
    """Does what the test gives it to do."""

    kind = "demo"
    interval = 0.01

    def __init__(self, work=lambda: None, due=lambda: False):
        self._work, self._due = work, due
        self.passes_made = 0

    def recover(self, context):
        self.passes_made += 1

    def work(self, context):
        self._work()

    def plan(self, context):
        yield ""

    def due(self, context):
        return self._due()


@pytest.fixture(params=["postgresql"])
def backend(request):
    """Run the tests on PostgreSQL alone, except where they say more."""
    return request.param


@pytest.fixture
def run(settings):
    def run(work, **options):
        return runner.run_pass(work, settings, Section(), runner.Options(**options))

    return run


@pytest.fixture
def ask(settings):
    """Return a function that asks the database something."""

    def ask(sql, *values):
        connect.connect(settings.database)
        return connect.execute(sql, values).fetchall()

    yield ask
    connect.disconnect()


def take_elsewhere(seconds=60, label="demo.a", site="archive"):
    """Let another host take a lease, whoever has it."""
    connect.execute("UPDATE component_lease SET expires_at = '2000-01-01'")
    assert ComponentLease.take(site, label, ELSEWHERE, "other", seconds, 0)


@pytest.fixture
def elsewhere(settings):
    """Let another host have the lease."""
    connect.connect(settings.database)
    take_elsewhere()
    connect.disconnect()


@pytest.mark.promise
def test_where_another_host_has_the_lease_a_pass_leaves_quietly(run, ask, elsewhere, capfd):
    work = Work()
    assert (run(work), run(work, strict=True)) == (0, 75)
    assert capfd.readouterr() == ("", "")
    assert work.passes_made == 0
    assert ask("SELECT count(*) FROM run") == [(0,)]


def test_a_person_is_told_which_host_has_it(run, elsewhere, capfd):
    run(Work(), verbose=1)
    assert "demo.a is run by host other, which has its lease; run this there" in (
        capfd.readouterr().err
    )


def test_a_pass_takes_over_when_the_lease_has_ended(run, ask, elsewhere):
    ask("UPDATE component_lease SET expires_at = '2000-01-01' RETURNING 1")
    work = Work()
    assert run(work) == 0
    assert work.passes_made == 1
    assert ask("SELECT count(*) FROM component_lease WHERE holder = ?", ELSEWHERE) == [(0,)]


def test_one_that_lingers_waits_for_the_lease(run, ask, elsewhere, monkeypatch):
    def end(seconds, stopping):
        connect.execute("UPDATE component_lease SET expires_at = '2000-01-01'")

    monkeypatch.setattr("dbbbatch.passes.lease._sleep", end)
    work = Work()
    assert run(work, wait=600) == 0
    assert work.passes_made == 1


def test_the_host_that_had_it_last_begins_first(run, ask, elsewhere, monkeypatch):
    ask("UPDATE component_lease SET expires_at = clock_timestamp() AT TIME ZONE 'UTC' RETURNING 1")
    monkeypatch.setattr("dbbbatch.passes.lease._sleep", lambda *_: take_elsewhere())
    work = Work()
    assert run(work) == 0
    assert work.passes_made == 0


def test_the_next_pass_of_a_host_goes_on_at_once(run, ask):
    work = Work()
    assert (run(work), run(work)) == (0, 0)
    assert work.passes_made == 2
    ((ended,),) = ask(
        "SELECT expires_at <= clock_timestamp() AT TIME ZONE 'UTC' FROM component_lease"
    )
    assert not ended  # and no other host may go on instead


@pytest.mark.promise
def test_a_pass_that_lost_its_lease_records_nothing_more(run, ask, capfd):
    def work():
        take_elsewhere()
        now = connect.read(connect.now)
        connect.write(Pause.begin, "archive", "demo.a", now, None, "late")

    assert run(Work(work)) == LeaseLost.exit_code
    assert capfd.readouterr() == ("", "")
    assert ask("SELECT count(*) FROM pause") == [(0,)]
    assert ask("SELECT outcome, exit_code, message FROM run") == [
        ("interrupted", 75, "another host has taken over")
    ]


@pytest.mark.promise
def test_nobody_takes_the_lease_within_a_transaction_that_records(run, database_url):
    seen = []

    def look():
        with psycopg.connect(database_url) as other:
            # To renew it is another thing.
            other.execute("SET lock_timeout = '5s'; UPDATE component_lease SET expires_at = now()")
            free = other.execute("SELECT 1 FROM component_lease FOR UPDATE SKIP LOCKED").fetchall()
        seen.append(free)

    assert run(Work(lambda: connect.write(look))) == 0
    assert seen == [[]]


def renewed(ask):
    return ask("SELECT expires_at FROM component_lease")[0][0]


def brief(settings, seconds):
    database = dataclasses.replace(settings.database, lease=seconds)
    return dataclasses.replace(settings, database=database)


def test_a_long_pass_renews_its_lease(settings, ask):
    def work():
        first = renewed(ask)
        while renewed(ask) == first:
            pass

    assert runner.run_pass(Work(work), brief(settings, 2), Section(), runner.Options()) == 0


@pytest.mark.promise
def test_a_pass_that_hangs_loses_its_lease(settings, ask, monkeypatch):
    # What threads of the test runner do meanwhile is no sign of the pass.
    monkeypatch.setattr(time, "process_time", time.thread_time)

    def work():
        select.select([], [], [], 3)  # which nothing interrupts
        fence.require()

    assert runner.run_pass(Work(work), brief(settings, 1), Section(), runner.Options()) == 75


def test_a_pass_that_lingers_keeps_its_lease_and_notices_when_it_is_gone(settings):
    looks = []

    def due():
        looks.append(1)
        if len(looks) == 2:
            take_elsewhere()
        return False

    options = runner.Options(linger=600)
    assert runner.run_pass(Work(due=due), brief(settings, 2), Section(), options) == 0
    assert len(looks) >= 2  # and it ended, long before it had lingered


def test_a_host_alone_notices_one_statement(run, monkeypatch):
    said = []
    execute = Postgresql.execute_sql

    def noting(self, sql, params=None):
        said.append(sql)
        return execute(self, sql, params)

    run(Work())
    monkeypatch.setattr(Postgresql, "execute_sql", noting)
    run(Work())
    assert len([sql for sql in said if "component_lease" in sql]) == 1


@pytest.mark.parametrize("backend", ["sqlite"])
def test_with_sqlite_there_are_no_leases(run, ask, backend):
    assert run(Work()) == 0
    assert ask("SELECT count(*) FROM component_lease") == [(0,)]


@pytest.mark.promise
def test_a_release_by_hand_respects_it(site: Site):
    site.put("a", where=site.quarantine)
    connect.connect(site.settings().database)
    take_elsewhere(label="release.handoff.latiss", site="summit")
    connect.disconnect()
    ran = site.run("dbb", "quarantine", "release", "handoff.latiss", "--match", "*")
    assert (ran.code, "is run by host other" in ran.err) == (75, True)
    assert tree(site.quarantine) == {"a": b"data"}


def test_a_command_by_hand_leaves_no_lease_behind(site: Site):
    for _ in range(2):
        ran = site.run("dbb", "quarantine", "release", "handoff.latiss", "--match", "*")
        assert (ran.code, ran.err) == (0, "")
    connect.connect(site.settings().database)
    assert ComponentLease.of("summit", "release.handoff.latiss").ended
    connect.disconnect()


def test_what_another_host_runs_is_not_missed_here(site: Site):
    now = silent(site, "handoff.latiss")
    connect.connect(site.settings().database)
    assert ComponentLease.take("summit", "handoff.latiss", ELSEWHERE, "other", 0, 0)
    assert watch.look_at_others(site.settings(), now) == {}
    connect.execute("UPDATE component_lease SET expires_at = '2000-01-01'")
    assert len(watch.look_at_others(site.settings(), now)) == 1
    connect.disconnect()
