"""`dbb retry`, `dbb ignore` and `dbb target`: what an operator changes by hand."""

import json
from typing import Any

import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.finder import Remembered, RememberedFile
from tests.support.ingesting import Ingesting
from tests.support.scripts import Ran
from tests.support.site import Site


@pytest.fixture
def ingesting(site: Site) -> Any:
    made = Ingesting(site).configure("command", max_attempts=1, config={"command": "false {file}"})
    made.store("night/x.fits", "night/y.log")
    made.run()
    yield made
    connect.disconnect()


def dbb(ingesting: Ingesting, *arguments: str) -> Ran:
    return ingesting.site.run("dbb", *arguments)


def handoff_file(
    name: str, status: str, error: str | None = None, attempts: int = 3, held_as: str | None = None
) -> None:
    connect.execute(
        "INSERT INTO handoff_file (site, handoff, relpath, filename, size_bytes, mtime_ns,"
        " inode, status, error, attempts, held_as, next_try_at, discovered_at) VALUES ('summit',"
        " 'latiss', '', ?, 1, 1, 1, ?, ?, ?, ?, '2099-01-01 00:00:00.000000',"
        " '2026-01-01 00:00:00.000000')",
        (name, status, error, attempts, held_as),
    )


def finder_left(name: str, verdict: str, message: str = "") -> None:
    left = RememberedFile("", name, 1, 1, 1, verdict, 1, message)
    connect.write(Remembered.remember, "summit", "latiss", [left])


def finder_memories() -> dict[str, str]:
    return dict(connect.execute("SELECT filename, verdict FROM finder_left").fetchall())


def handoff_statuses() -> dict[str, str]:
    return dict(connect.execute("SELECT filename, status FROM handoff_file").fetchall())


class TestRetry:
    def test_failures_are_due_again(self, ingesting: Ingesting) -> None:
        ran = dbb(ingesting, "retry", "target.a")
        assert ran == (0, "2 files of target.a are due again\n", "")
        assert set(ingesting.statuses().values()) == {"RERUN"}

    def test_next_pass_takes_them(self, ingesting: Ingesting) -> None:
        dbb(ingesting, "retry", "target.a")
        ingesting.configure()
        assert ingesting.run() == 0
        assert set(ingesting.statuses().values()) == {"SUCCESS"}

    def test_only_files_that_match(self, ingesting: Ingesting) -> None:
        ran = dbb(ingesting, "retry", "target.a", "--match", "*.fits")
        assert ran.out.startswith("1 file ")
        assert ingesting.statuses() == {"night/x.fits": "RERUN", "night/y.log": "FAILURE"}

    def test_only_files_of_a_status(self, ingesting: Ingesting) -> None:
        assert dbb(ingesting, "retry", "target.a", "--status", "unknown").out.startswith("0 files")

    def test_only_files_changed_since(self, ingesting: Ingesting) -> None:
        connect.execute("UPDATE ingest_state SET changed_at = '2026-01-01 00:00:00.000000'")
        assert dbb(ingesting, "retry", "target.a", "--since", "1d").out.startswith("0 files")
        assert dbb(ingesting, "retry", "target.a", "--since", "2025-12-31").out.startswith("2")

    @pytest.mark.parametrize(("command", "would"), [("retry", "due again"), ("ignore", "ignored")])
    def test_dry_run_lists_each_file_and_why(
        self, ingesting: Ingesting, command: str, would: str
    ) -> None:
        connect.execute("UPDATE ingest_state SET message = ?", ["exit code 1\noh"])
        ran = dbb(ingesting, command, "target.a", "--match", "*", "--dry-run")
        assert ran.out.splitlines() == [
            "night/x.fits: exit code 1 oh",
            "night/y.log: exit code 1 oh",
            f"2 files of target.a would be {would}",
        ]
        assert set(ingesting.statuses().values()) == {"FAILURE"}

    def test_history_says_who_asked(self, ingesting: Ingesting) -> None:
        dbb(ingesting, "retry", "target.a")
        assert ingesting.events("night/x.fits")[-1] == "RERUN"
        assert ingesting.state("night/x.fits")["message"].startswith("`dbb retry` by ")

    def test_unknown_status_is_a_usage_error(self, ingesting: Ingesting) -> None:
        ran = dbb(ingesting, "retry", "target.a", "--status", "FAILED")
        assert ran.code == 64
        assert "FAILURE" in ran.err

    def test_success_must_be_asked_for(self, ingesting: Ingesting) -> None:
        ingesting.configure()
        dbb(ingesting, "retry", "target.a")
        ingesting.run()
        assert dbb(ingesting, "retry", "target.a").out.startswith("0 files")
        assert dbb(ingesting, "retry", "target.a", "--status", "SUCCESS").out.startswith("2 files")

    def test_target_that_never_ran_is_a_usage_error(self, ingesting: Ingesting) -> None:
        ingesting.site.write(targets={"b": {}})
        assert dbb(ingesting, "retry", "target.b").code == 64

    def test_files_that_a_finder_could_not_store_are_due_at_once(
        self, ingesting: Ingesting
    ) -> None:
        finder_left("x", "FAILED", "Permission denied")
        finder_left("y", "DUPLICATE")
        ran = dbb(ingesting, "retry", "finder.latiss", "--dry-run")
        assert ran.out.splitlines()[0] == "x: Permission denied"
        assert dbb(ingesting, "retry", "finder.latiss").out.startswith("1 file ")
        assert finder_memories() == {"y": "DUPLICATE"}

    def test_handoff_files_that_were_never_tried_are_no_matter(self, ingesting: Ingesting) -> None:
        handoff_file("x", "FOUND", attempts=0)
        assert dbb(ingesting, "retry", "handoff.latiss").out.startswith("0 files")

    def test_handoff_files_that_wait_are_due_at_once(self, ingesting: Ingesting) -> None:
        handoff_file("x", "FOUND")
        assert dbb(ingesting, "retry", "handoff.latiss").out.startswith("1 file ")
        rows = connect.execute("SELECT attempts, next_try_at FROM handoff_file").fetchall()
        assert [tuple(row) for row in rows] == [(0, None)]

    def test_ignored_handoff_files_must_be_asked_for(self, ingesting: Ingesting) -> None:
        for name in ("FOUND", "IGNORED", "VANISHED", "HELD"):
            handoff_file(name, name)
        assert dbb(ingesting, "retry", "handoff.latiss").out.startswith("2 files")
        assert handoff_statuses() == {
            "FOUND": "FOUND",
            "IGNORED": "IGNORED",
            "VANISHED": "FOUND",
            "HELD": "HELD",
        }
        ran = dbb(ingesting, "retry", "handoff.latiss", "--status", "IGNORED")
        assert ran.out.startswith("1 file ")
        assert handoff_statuses()["IGNORED"] == "FOUND"
        assert dbb(ingesting, "retry", "handoff.latiss", "--status", "HELD").code == 64


class TestReason:
    """--reason selects by what is recorded, with every command alike."""

    @pytest.mark.parametrize("text", ["exit code 1", "exit*1", "*", "[exit]", "xit"])
    @pytest.mark.parametrize("command", ["retry", "ignore"])
    def test_only_files_of_a_target_that_failed_so(
        self, ingesting: Ingesting, command: str, text: str
    ) -> None:
        connect.execute(
            "UPDATE ingest_state SET message = 'the disk is full' WHERE file_id ="
            " (SELECT id FROM file WHERE filename = 'y.log')"
        )
        connect.execute(
            "UPDATE ingest_state SET message = 'tool: exit code 1 [exit]' WHERE file_id ="
            " (SELECT id FROM file WHERE filename = 'x.fits')"
        )
        ran = dbb(ingesting, command, "target.a", "--reason", text)
        assert ran.out.startswith("2 files" if text == "*" else "1 file ")
        if text != "*":
            assert ingesting.statuses()["night/y.log"] == "FAILURE"

    @pytest.mark.parametrize(("command", "becomes"), [("retry", "FOUND"), ("ignore", "IGNORED")])
    def test_only_files_of_a_handoff_that_failed_so(
        self, ingesting: Ingesting, command: str, becomes: str
    ) -> None:
        handoff_file("one", "FOUND", "scp: exit code 1")
        handoff_file("two", "FOUND", "the disk is full")
        handoff_file("three", "FOUND")
        ran = dbb(ingesting, command, "handoff.latiss", "--reason", "exit code")
        assert ran.out.startswith("1 file ")
        assert handoff_statuses() == {"one": becomes, "two": "FOUND", "three": "FOUND"}


class TestIgnore:
    def test_ignored_files_are_left_alone(self, ingesting: Ingesting) -> None:
        ran = dbb(ingesting, "ignore", "target.a", "--match", "*.log", "--remark", "no data")
        assert ran == (0, "1 file of target.a is ignored\n", "")
        assert ingesting.statuses()["night/y.log"] == "IGNORED"
        assert ingesting.state("night/y.log")["message"].endswith(": no data")

    def test_which_files_must_be_said(self, ingesting: Ingesting) -> None:
        assert dbb(ingesting, "ignore", "target.a").code == 64

    def test_retry_undoes_it(self, ingesting: Ingesting) -> None:
        dbb(ingesting, "ignore", "target.a", "--match", "*")
        assert dbb(ingesting, "retry", "target.a", "--status", "IGNORED").out.startswith("2 files")

    def test_ignored_files_in_holding_are_held_again(self, ingesting: Ingesting) -> None:
        handoff_file("x", "HELD", held_as="x")
        handoff_file("y", "FOUND")
        for status in ("HELD", "FOUND"):
            dbb(ingesting, "ignore", "handoff.latiss", "--status", status)
        dbb(ingesting, "retry", "handoff.latiss", "--status", "IGNORED")
        assert handoff_statuses() == {"x": "HELD", "y": "FOUND"}

    def test_what_a_finder_gave_up_must_be_asked_for(self, ingesting: Ingesting) -> None:
        finder_left("x", "GIVEN_UP", "named by a log")
        arguments = ("ignore", "finder.latiss", "--status")
        assert dbb(ingesting, *arguments, "QUARANTINED").out.startswith("0 files")
        assert dbb(ingesting, *arguments, "GIVEN_UP").out.startswith("1 file ")
        assert finder_memories() == {}


class TestTarget:
    def test_list_says_what_waits(self, ingesting: Ingesting) -> None:
        (found,) = json.loads(dbb(ingesting, "target", "list", "--json").out)
        assert (found["target"], found["new_files"], found["for_a_person"]) == ("a", 0, 2)

    def test_list_is_a_table_for_people(self, ingesting: Ingesting) -> None:
        ran = dbb(ingesting, "target", "list")
        assert ran.code == 0
        assert "for a person" in ran.out

    def test_retired_target_gets_no_more_files_and_keeps_its_history(
        self, ingesting: Ingesting
    ) -> None:
        assert dbb(ingesting, "target", "retire", "a").code == 0
        ingesting.store("night/z.fits")
        assert set(ingesting.statuses()) == {"night/x.fits", "night/y.log"}
        assert dbb(ingesting, "target", "retire", "target.a", "--undo").code == 0
        assert ingesting.statuses()["night/z.fits"] == "UNTRIED"

    def test_unknown_target_is_a_usage_error(self, ingesting: Ingesting) -> None:
        assert dbb(ingesting, "target", "retire", "b").code == 64
