"""PostgreSQL as sites run it: encodings, schemas, grants, PgBouncer, locks, silence."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import peewee
import psycopg
import pytest

from dbbbatch.config.fields import defaults
from dbbbatch.config.sections import Database
from dbbbatch.database import causes, connect, postgresql, waiting
from dbbbatch.database.causes import Cause
from dbbbatch.errors import ConfigError, Interrupted, TryLater
from tests.support import pgbouncer
from tests.support.database import initialise
from tests.support.relay import Relay
from tests.support.scripts import TOP
from tests.support.site import Site, tree

pytestmark = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

#: Much longer than a test may take: what ends sooner has not waited for it.
LONG = 3600


@pytest.fixture
def sql(databases: Any, database_url: str) -> Callable[..., None]:
    """Return a function that runs statements in the test's database as its owner."""
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    return lambda *statements: databases.postgres.execute(name, *statements)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that sets for how long a statement is waited for from then on."""
    monkeypatch.setattr(waiting, "LEAST", 0.1)
    return lambda seconds: monkeypatch.setattr(connect, "_patience", seconds)


def opened(url: str, patience: float = 30, **more: Any) -> Any:
    return connect.connect(defaults(Database, url=url, patience=patience), **more)


def pause(label: str) -> None:
    connect.execute(
        "INSERT INTO pause (site, label, since, reason) VALUES ('s', ?, now(), '')", [label]
    )


def labels() -> list[str]:
    return [label for (label,) in connect.execute("SELECT label FROM pause").fetchall()]


@contextmanager
def locked(url: str, tables: str) -> Iterator[None]:
    """Hold tables as nobody else may use them."""
    with psycopg.connect(url) as other:
        other.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
        yield
        other.rollback()


def active(url: str, other: psycopg.Connection[Any]) -> list[str]:
    """Return what the scripts' sessions do just now."""
    rows = other.execute(
        "SELECT query FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'dbbbatch' AND state = 'active'"
    )
    return [query for (query,) in rows]


def nothing_left(url: str, other: psycopg.Connection[Any]) -> bool:
    """Wait until the server has ended what it was asked to cancel."""
    for _ in range(600):
        if not active(url, other):
            return True
        other.execute("SELECT pg_sleep(0.1)")
    return False


class TestEncodings:
    """Names need UTF-8 on both ends of the line."""

    @pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
    def test_a_database_of_another_encoding_is_refused(self, backend, databases, encoding):
        more = f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        name = databases.postgres.create("template0", more)
        url = databases.postgres.url(name)
        for how in ({"check": False}, {}, {"readonly": True}):
            with pytest.raises(ConfigError, match=f"encoding {encoding}.*createdb --encoding=UTF8"):
                opened(url, **how)
        databases.postgres.drop(name)

    def test_every_script_refuses_it(self, backend, databases, tmp_path):
        name = databases.postgres.create("template0", "ENCODING 'LATIN1' LOCALE 'C'")
        site = Site(tmp_path / "site", databases.postgres.url(name)).write()
        commands = [["dbb", "init"], ["dbb", "status"], ["dbb", "check"], ["dbb-handoff"]]
        commands += [
            ["dbb-finder"],
            ["dbb-ingester"],
            ["dbb-janitor"],
            ["dbb-handoff", "--dry-run"],
        ]
        for command in commands:
            ran = site.run(*command)
            assert (ran.code, "LATIN1" in ran.out + ran.err) == (78, True), command
        databases.postgres.drop(name)

    @pytest.mark.parametrize("where", ["environment", "database", "url"])
    def test_the_client_speaks_utf_8_whatever_is_set(self, database_url, sql, monkeypatch, where):
        if where == "environment":
            monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
        if where == "database":
            name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
            sql(f"ALTER DATABASE {name} SET client_encoding = 'LATIN1'")
        if where == "url":
            database_url += "&client_encoding=LATIN1"
        opened(database_url)
        connect.write(pause, "月.fits")
        assert labels() == ["月.fits"]
        connect.disconnect()


class TestSchemas:
    """What the URL says about schemas holds for those who only read, too."""

    @pytest.mark.parametrize("where", ["url", "environment", "service"])
    def test_whoever_reads_sees_the_tables_that_a_pass_sees(
        self, empty_database_url, databases, tmp_path, monkeypatch, where
    ):
        name = psycopg.conninfo.conninfo_to_dict(empty_database_url)["dbname"]
        databases.postgres.execute(name, "CREATE SCHEMA dbb")
        if where == "url":
            empty_database_url += "&options=-csearch_path%3Ddbb"
        elif where == "environment":
            monkeypatch.setenv("PGOPTIONS", "-csearch_path=dbb")
        else:
            services = tmp_path / "services"
            services.write_text("[here]\noptions=-csearch_path=dbb\n")
            monkeypatch.setenv("PGSERVICEFILE", str(services))
            monkeypatch.setenv("PGSERVICE", "here")
        initialise(empty_database_url)
        opened(empty_database_url)
        connect.write(pause, "a")
        opened(empty_database_url, readonly=True)
        assert labels() == ["a"]
        assert connect.execute("SELECT count(*) FROM dbb.pause").fetchone() == (1,)
        connect.disconnect()

    def test_tables_in_a_later_schema_of_the_path_are_found(self, database_url, sql):
        sql("CREATE SCHEMA first")
        opened(database_url + "&options=-csearch_path%3Dfirst,public")
        assert labels() == []
        connect.disconnect()

    def test_tables_that_the_path_does_not_lead_to_are_named(self, database_url, sql):
        sql("CREATE SCHEMA other")
        with pytest.raises(ConfigError, match=r"search_path is other.*in the schema public"):
            opened(database_url + "&options=-csearch_path%3Dother")

    def test_a_path_that_leads_nowhere_is_told(self, database_url):
        with pytest.raises(
            ConfigError, match=r"no schema of its search_path nowhere.*GRANT USAGE, CREATE"
        ):
            opened(database_url + "&options=-csearch_path%3Dnowhere")

    def test_a_table_that_is_gone_is_a_matter_of_the_set_up(self, database_url, sql):
        sql("DROP TABLE pause")
        opened(database_url)
        with pytest.raises(ConfigError, match=r'"pause" does not exist.*search_path.*`dbb init`'):
            labels()
        connect.disconnect()

    def test_a_table_of_somebody_else_is_told_by_init(self, empty_database_url, databases):
        name = psycopg.conninfo.conninfo_to_dict(empty_database_url)["dbname"]
        databases.postgres.execute(name, "CREATE TABLE run (id int)")
        with pytest.raises(ConfigError, match=r'"run" already exists.*schema of its own'):
            connect.upgrade(defaults(Database, url=empty_database_url))
        connect.disconnect()


class TestGrants:
    """A role that may not: which table, which role, and what mends it."""

    @pytest.fixture
    def role(self, sql, database_url):
        """Return the name of a role without any rights, and the URL by which it connects."""
        name = f"weak-{os.getpid()}"
        with suppress(psycopg.errors.DuplicateObject):
            sql(f'CREATE ROLE "{name}" LOGIN')
        yield name, database_url.replace("postgres:@", f"{name}@")
        sql(f'DROP OWNED BY "{name}"', f'DROP ROLE "{name}"')

    def test_what_is_advised_mends_it(self, role, sql):
        name, url = role
        with pytest.raises(
            ConfigError, match="permission denied for table schema_version"
        ) as raised:
            opened(url)
        assert f"role {name}" in str(raised.value)
        grants = str(raised.value).split("run: ")[1].split("; and ")[0].split("; ")
        sql(*grants)
        opened(url)
        connect.write(pause, "a")
        assert labels() == ["a"]
        connect.disconnect()

    def test_a_role_that_may_only_read_is_told_at_the_first_change(self, role, sql):
        name, url = role
        sql(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{name}"')
        opened(url)
        with pytest.raises(ConfigError, match="permission denied for table pause"):
            connect.write(pause, "a")
        assert labels() == []
        connect.disconnect()

    def test_the_check_names_the_tables_that_cannot_be_written(self, role, sql, tmp_path):
        name, url = role
        sql(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{name}"')
        sql(f'GRANT INSERT, UPDATE, DELETE ON run, pause TO "{name}"')
        sql("CREATE TABLE everything_else (id int)")
        ran = Site(tmp_path / "site", url).write().run("dbb", "check")
        denied = "permission denied for table component_lease, file, file_checksum,"
        assert (ran.code, denied in ran.err) == (78, True)

    def test_a_second_table_is_told_although_the_first_was(self, role, sql, tmp_path):
        name, url = role
        site = Site(tmp_path / "site", url).write()
        assert "schema_version" in site.run("dbb-handoff").err
        sql(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{name}"')
        ran = site.run("dbb-handoff")
        assert (ran.code, "for table component_lease" in ran.err) == (78, True), ran


class TestCauses:
    """No SQLSTATE ends as a mistake of ours unless it is one."""

    def test_only_these_are_mistakes_of_ours(self, backend):
        known = {getattr(error, "sqlstate", None) for error in vars(psycopg.errors).values()}
        known = {state for state in known if isinstance(state, str)}
        assert len(known) > 200
        ours = {state[:2] for state in known if causes.of_sqlstate(state) is Cause.BUG}
        assert ours == {*("20", "21", "22", "23", "24", "25", "26", "2D", "34", "3B", "40", "42")}

    @pytest.mark.parametrize(
        ("state", "expected"),
        [
            *(
                (state, TryLater)
                for state in ("57014", "25006", "57P05", "25P03", "57P01", "57P03")
            ),
            *((state, TryLater) for state in ("53000", "53100", "53200", "53300", "53400")),
            *(
                (state, TryLater)
                for state in ("40001", "40P01", "55P03", "58030", "08006", "XX000")
            ),
            *((state, ConfigError) for state in ("42501", "3F000", "42P01", "42703", "XX001")),
            *((state, peewee.PeeweeException) for state in ("42601", "23505", "22012")),
        ],
    )
    def test_the_server_s_errors_are_sorted(self, database_url, state, expected):
        opened(database_url, patience=0.2)
        with pytest.raises(expected, match="odd"):
            connect.write(
                connect.execute,
                f"DO $$ BEGIN RAISE EXCEPTION 'odd' USING ERRCODE = '{state}'; END $$",
            )
        connect.write(pause, "afterwards")
        connect.disconnect()

    def test_a_server_that_only_reads_is_a_matter_for_later(self, database_url, sql):
        opened(database_url + "&options=-cdefault_transaction_read_only%3Don", patience=0.2)
        with pytest.raises(TryLater, match="read-only transaction"):
            connect.write(pause, "a")
        connect.disconnect()

    def test_a_session_that_the_server_ended_as_idle_does_no_harm(self, database_url, sql):
        name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
        sql(f"ALTER DATABASE {name} SET idle_session_timeout = '100ms'")
        opened(database_url)
        mine = connect.proxy.obj.connection().info.backend_pid
        with psycopg.connect(database_url) as other:  # in a transaction, so not idle
            while other.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [mine]).fetchone():
                other.execute("SELECT pg_stat_clear_snapshot(), pg_sleep(0.1)")
        connect.write(pause, "a")
        assert labels() == ["a"]
        connect.disconnect()

    def test_a_url_that_cannot_be_read_does_not_show_its_password(self, backend):
        # The configuration refuses it before; nobody else need.
        settings = replace(
            defaults(Database, url="postgresql://host/x"), url="postgresql://dbb:se%same@host/x"
        )
        with pytest.raises(ConfigError) as raised:
            connect.connect(settings)
        assert "%same" not in str(raised.value)

    @pytest.mark.parametrize("more", ["sslmode=perhaps", "options=-csearch_pat%3Dx", "nothing=1"])
    def test_a_parameter_that_is_wrong_is_a_matter_of_the_set_up(self, database_url, more):
        with pytest.raises(ConfigError):
            opened(f"{database_url}&{more}", patience=0.2)


class TestLimits:
    """Whatever a pass waits for ends after `patience`, and soon after a signal."""

    def test_a_lock_of_somebody_else_is_given_up(self, database_url, hasty):
        opened(database_url)
        hasty(0.3)
        with locked(database_url, "pause"), psycopg.connect(database_url, autocommit=True) as other:
            for work in (lambda: connect.write(pause, "a"), labels):
                with pytest.raises(TryLater, match=r"busy or away.*lock"):
                    work()
            assert nothing_left(database_url, other)
        assert labels() == []
        connect.disconnect()

    def test_whatever_is_met_in_one_outage_is_one_trouble(self, site, database_url):
        site.write(database={"patience": "1s"})
        with locked(database_url, "run"):
            begins = site.run("dbb-finder")
        site.write(database={"patience": "1s", "url": f"{database_url}&port=1"})
        goes_on = site.run("dbb-finder")
        site.write()
        ends = site.run("dbb-finder")
        assert [ran.code for ran in (begins, goes_on, ends)] == [75, 75, 0]
        assert goes_on.err == ""
        assert ends.err == begins.err.replace(": ", ": is over: ", 1)

    def test_after_it_was_given_up_the_next_work_is_brief(self, database_url, hasty):
        opened(database_url, patience=LONG)
        connect._given_up = True
        with locked(database_url, "pause"), pytest.raises(TryLater, match="busy or away"):
            labels()
        assert labels() == []
        assert not connect._given_up
        connect.disconnect()

    def test_a_long_statement_waits_for_locks_no_longer(self, database_url, hasty):
        opened(database_url)
        hasty(0.3)
        with locked(database_url, "pause"), pytest.raises(TryLater, match=r"busy or away.*lock"):
            connect.long_read(labels)
        connect.disconnect()

    def test_what_grows_with_the_history_may_take_longer(self, database_url, hasty):
        opened(database_url)
        hasty(0.1)
        rows = connect.long_read(lambda: connect.execute("SELECT 1, pg_sleep(0.5)").fetchall)
        assert len(rows()) == 1
        with pytest.raises(TryLater, match="busy or away"):
            connect.read(connect.execute, "SELECT pg_sleep(60)")
        connect.disconnect()

    def test_the_server_holds_to_the_limits_by_itself(self, database_url):
        opened(database_url, patience=17)
        found = connect.write(
            lambda: connect.execute(
                "SELECT current_setting('lock_timeout'), current_setting('statement_timeout')"
            ).fetchone()
        )
        assert found == ("17s", "17s")
        assert connect.execute("SELECT current_setting('lock_timeout')").fetchone() == ("0",)
        connect.disconnect()

    def test_a_limit_may_be_longer_than_a_server_can_count(self, database_url):
        opened(database_url, patience=1e9)
        assert connect.long_read(labels) == []
        connect.disconnect()

    def test_a_host_that_is_gone_is_noticed_within_the_patience(self, backend):
        found = postgresql.parameters("postgresql://a@b/c?keepalives_idle=7", None, 30)
        assert {name: found[name] for name in found if "keep" in name or "tcp" in name} == {
            "keepalives_idle": "7",
            "keepalives_interval": "11",
            "keepalives_count": "2",
            "tcp_user_timeout": "30000",
        }

    def test_a_signal_ends_the_statement(self, database_url, monkeypatch):
        opened(database_url, patience=LONG)
        monkeypatch.setattr(waiting, "seen", lambda: 2)
        with locked(database_url, "pause"), psycopg.connect(database_url, autocommit=True) as other:
            with pytest.raises(Interrupted):
                connect.write(pause, "a")
            assert nothing_left(database_url, other)
        connect.disconnect()

    def test_what_is_quick_is_done_although_a_signal_has_come(self, database_url, monkeypatch):
        opened(database_url)
        monkeypatch.setattr(waiting, "seen", lambda: 2)
        connect.write(pause, "a")
        assert labels() == ["a"]
        connect.disconnect()

    @pytest.mark.parametrize(
        "command", [["dbb-handoff"], ["dbb-finder"], ["dbb-ingester"], ["dbb-janitor"]]
    )
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_pass_that_waits_for_a_lock_leaves_when_asked_to(
        self, site, database_url, command, number
    ):
        site.write(database={"patience": LONG})
        with locked(database_url, "run"), psycopg.connect(database_url, autocommit=True) as other:
            waits = subprocess.Popen(
                [sys.executable, TOP / "bin" / command[0], *command[1:]],
                env={"DBB_CONFIG": str(site.config), "PATH": "/usr/bin:/bin"},
                stderr=subprocess.PIPE,
                text=True,
            )
            while not active(database_url, other):
                assert waits.poll() is None
            waits.send_signal(number)
            _, said = waits.communicate(timeout=60)
            assert (waits.returncode, said) == (75, "")
            assert nothing_left(database_url, other)

    @pytest.mark.parametrize(
        "command",
        [
            *(["dbb", "status"], ["dbb", "pause", "handoff.latiss"], ["dbb", "check"]),
            *(["dbb-handoff", "--dry-run"], ["dbb-handoff"], ["dbb", "history", "a.fits"]),
        ],
    )
    def test_whoever_waits_for_a_lock_ends_with_75(self, site, database_url, command):
        site.put("a.fits")
        site.write(database={"patience": 1})
        with locked(database_url, "pause, handoff_file, file, run"):
            ran = site.run(*command)
        assert (ran.code, "busy or away" in ran.out + ran.err) == (75, True), ran


@pytest.fixture
def relay(databases: Any, backend: str) -> Iterator[Relay]:
    """Return a relay to the tests' server."""
    made = Relay(f"{databases.postgres.socket}/.s.PGSQL.5432")
    yield made
    made.close()


class TestSilence:
    """A peer that falls silent: its host still answers, so TCP does not notice."""

    @pytest.fixture
    def url(self, database_url, relay):
        name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
        return f"postgresql://postgres@127.0.0.1:{relay.port}/{name}"

    @pytest.mark.parametrize("work", [labels, lambda: connect.write(pause, "a")])
    def test_silence_is_given_up(self, url, relay, hasty, monkeypatch, work):
        monkeypatch.setattr(postgresql, "_CANCELLING", 0.2)
        opened(url)
        hasty(0.3)
        relay.silence()
        with pytest.raises(TryLater, match="busy or away"):
            work()
        connect.disconnect()

    def test_silence_while_connecting_is_given_up(self, url, relay, hasty):
        relay.silence()
        with pytest.raises(TryLater, match="busy or away"):
            opened(url, patience=0.3)


class TestPgBouncer:
    """Each transaction may go to another server process."""

    @pytest.fixture(autouse=True)
    def _needs_pgbouncer(self, backend):
        if what := pgbouncer.missing():
            pytest.skip(what)

    @pytest.fixture
    def behind(self, database_url, databases, tmp_path):
        """Return a function that makes a site behind a PgBouncer of some mode."""
        name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
        with pytest.MonkeyPatch.context():

            @contextmanager
            def make(mode: str, more: str = "") -> Iterator[Site]:
                with pgbouncer.pgbouncer(databases.postgres, name, mode) as url:
                    yield Site(tmp_path / mode, url + more).write(
                        handoff={"batch_files": 5},
                        finder={"batch_files": 5},
                        targets={"a": {"batch_files": 5, "passes": 2}},
                    )

            yield make

    @pytest.mark.promise
    @pytest.mark.parametrize("mode", ["transaction", "session"])
    def test_every_script_works(self, behind, mode):
        with behind(mode) as site:
            assert site.run("dbb", "init").code == 0
            for night in range(3):
                site.put_all(f"{night}/{n}.fits" for n in range(30))
                for script in ("dbb-handoff", "dbb-finder"):
                    assert site.run(script) == (0, "", "")
                both = [
                    subprocess.Popen(
                        [sys.executable, TOP / "bin" / "dbb-ingester"],
                        env={"DBB_CONFIG": str(site.config), "PATH": "/usr/bin:/bin"},
                    )
                    for _ in range(2)
                ]
                assert [each.wait(60) for each in both] == [0, 0]
            assert len(tree(site.storage)) == 90
            site.put("later.fits")
            for command in (
                *(["dbb", "status"], ["dbb", "history", "0/1.fits"], ["dbb-handoff", "--dry-run"]),
                *(["dbb-ingester", "--dry-run"], ["dbb", "pause", "handoff.latiss"]),
                *(["dbb", "resume", "handoff.latiss"], ["dbb-auditor"], ["dbb-janitor"]),
                *(["dbb", "retry", "target.a", "--status", "SUCCESS", "--yes"], ["dbb", "target"]),
            ):
                ran = site.run(*command)
                assert ran.code in (0, 64), (command, ran)
            ran = site.run("dbb", "confirm", stdin=b'{"nonce": "a", "targets": []}\n')
            assert ran.code == 0, ran

    def test_statement_mode_is_explained(self, behind):
        with behind("statement") as site:
            for command in (["dbb-handoff"], ["dbb", "status"], ["dbb", "init"]):
                ran = site.run(*command)
                said = " ".join(f"{ran.out} {ran.err}".split())
                assert (ran.code, "pool_mode = transaction" in said) == (78, True), ran

    def test_options_that_it_does_not_pass_on_are_explained(self, behind):
        with behind("transaction", "&options=-csearch_path%3Dpublic") as site:
            ran = site.run("dbb-handoff")
            assert (ran.code, "ALTER ROLE" in ran.err) == (78, True), ran
