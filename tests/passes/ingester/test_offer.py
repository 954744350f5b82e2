"""The ingester: what a pass does with the files of a target, on both databases."""

import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.claim import IngestClaim
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.files.names import to_text
from dbbbatch.passes.ingester import offer, rules
from dbbbatch.passes.ingester.claims import Claims
from dbbbatch.targets.plugin import Outcome
from tests.support.ingesting import Ingesting
from tests.support.scripts import TOP
from tests.support.site import SENTINEL, Site
from tests.targets.conftest import naughty, open_when_read

__all__ = ["naughty"]

pytestmark = pytest.mark.usefixtures("naughty")


@pytest.fixture
def ingesting(site: Site) -> Any:
    yield Ingesting(site).configure()
    connect.disconnect()


@pytest.fixture
def misbehaving(ingesting: Ingesting) -> Ingesting:
    return ingesting.configure("naughty", max_attempts=2)


class TestHistory:
    def test_each_change_of_status_is_an_event(self, ingesting: Ingesting) -> None:
        ingesting.store("night/x.fits")
        assert ingesting.run() == 0
        assert ingesting.statuses() == {"night/x.fits": "SUCCESS"}
        assert ingesting.events("night/x.fits") == ["UNTRIED", "PENDING", "SUCCESS"]

    def test_target_added_after_the_files_gets_them_all(self, ingesting: Ingesting) -> None:
        ingesting.store("x.fits")
        connect.execute("DELETE FROM ingest_state")
        ingesting.run()
        assert ingesting.statuses() == {"x.fits": "SUCCESS"}

    def test_file_that_is_committed_late_with_an_early_number_is_due(
        self, ingesting: Ingesting
    ) -> None:
        ingesting.store("early.fits", "late.fits")
        ingesting.run()
        connect.execute("DELETE FROM ingest_event")
        connect.execute("DELETE FROM ingest_state")
        numbers = dict(connect.execute("SELECT filename, id FROM file").fetchall())
        for name in ("late.fits", "early.fits"):
            connect.write(
                lambda name=name: IngestState.arrive([numbers[name]], str(ingesting.site.storage))
            )
            ingesting.run()
        assert set(ingesting.statuses().values()) == {"SUCCESS"}

    def test_final_event_tells_version_and_duration(self, misbehaving: Ingesting) -> None:
        misbehaving.store("done.1")
        misbehaving.run()
        version, duration, run = connect.execute(
            "SELECT version, duration, run_id FROM ingest_attempt"
        ).fetchone()
        assert version == "7.0"
        assert duration >= 0
        assert run is not None

    def test_already_there_is_success_and_says_so(self, misbehaving: Ingesting) -> None:
        misbehaving.store("already.1")
        assert misbehaving.run() == 0
        assert misbehaving.state("already.1")["status"] == "SUCCESS"

    def test_what_a_plugin_calls_a_checksum_and_is_none_is_not_kept(
        self, misbehaving: Ingesting
    ) -> None:
        misbehaving.store("nosum.1")
        assert misbehaving.run() == 0
        assert misbehaving.statuses() == {"nosum.1": "SUCCESS"}
        assert connect.execute("SELECT count(*) FROM file_checksum").fetchone()[0] == 0

    def test_checksums_that_the_plugin_computed_are_kept(self, misbehaving: Ingesting) -> None:
        misbehaving.store("sum.1")
        misbehaving.run()
        rows = connect.execute("SELECT algorithm, value FROM file_checksum").fetchall()
        assert [tuple(row) for row in rows] == [("md5", "00")]

    def test_nothing_is_held_after_a_pass(self, misbehaving: Ingesting) -> None:
        misbehaving.store("done.1", "failed.1")
        misbehaving.run()
        assert IngestClaim.select().count() == 0

    def test_pass_with_nothing_due_starts_no_process(
        self, ingesting: Ingesting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ingesting.store("x.fits")
        ingesting.run()

        def refuse(*arguments: Any, **more: Any) -> None:
            raise AssertionError("a process was started")

        monkeypatch.setattr(subprocess, "Popen", refuse)
        assert ingesting.run() == 0

    def test_views_say_what_waits(self, misbehaving: Ingesting) -> None:
        misbehaving.run()
        misbehaving.store("failed.1", "never.1")
        misbehaving.run()
        misbehaving.store("new.1")
        row = connect.execute(
            "SELECT target, new_files, tried_again, in_hand, for_a_person FROM ingest_backlog"
        ).fetchone()
        assert tuple(row) == ("a", 1, 1, 0, 1)


class TestOutcomes:
    def test_failure_is_tried_again_until_attempts_are_used_up(
        self, misbehaving: Ingesting
    ) -> None:
        misbehaving.store("failed.1", "done.1")
        assert misbehaving.run() == 1
        state = misbehaving.state("failed.1")
        assert (state["status"], state["attempts"]) == ("FAILURE", 1)
        assert state["next_try_at"] is not None
        misbehaving.wait_is_over()
        assert misbehaving.run() == 1
        state = misbehaving.state("failed.1")
        assert (state["status"], state["attempts"], state["next_try_at"]) == ("FAILURE", 2, None)
        assert misbehaving.run() == 0

    def test_failure_is_not_tried_before_its_time(self, misbehaving: Ingesting) -> None:
        misbehaving.store("failed.1")
        misbehaving.run()
        misbehaving.run()
        assert misbehaving.state("failed.1")["attempts"] == 1

    def test_later_costs_no_attempt(self, misbehaving: Ingesting) -> None:
        misbehaving.store("later.1")
        assert misbehaving.run() == 0
        state = misbehaving.state("later.1")
        assert (state["status"], state["attempts"]) == ("UNTRIED", 0)
        assert state["next_try_at"] is not None

    def test_target_that_is_away_for_everybody_ends_the_pass(self, misbehaving: Ingesting) -> None:
        misbehaving.store(*(f"later.{number:03}" for number in range(200)))
        assert misbehaving.run() == 75
        tried = connect.execute("SELECT count(*) FROM ingest_state WHERE message <> ''")
        assert 50 <= tried.fetchone()[0] < 200

    def test_never_is_invalid(self, misbehaving: Ingesting) -> None:
        misbehaving.store("never.1")
        assert misbehaving.run() == 1
        assert misbehaving.state("never.1")["status"] == "INVALID"

    def test_parts_done_are_kept_for_the_next_attempt(self, misbehaving: Ingesting) -> None:
        misbehaving.store("partly.1")
        misbehaving.run()
        state = misbehaving.state("partly.1")
        assert (state["status"], state["attempts"]) == ("FAILURE", 1)
        assert state["parts_done"] == '["first"]'

    def test_file_of_a_crash_is_unknown_and_then_failure(self, misbehaving: Ingesting) -> None:
        misbehaving.store("segfault.1", "done.1")
        assert misbehaving.run() == 1
        assert misbehaving.statuses() == {"done.1": "SUCCESS", "segfault.1": "UNKNOWN"}
        misbehaving.wait_is_over()
        assert misbehaving.run() == 1
        state = misbehaving.state("segfault.1")
        assert (state["status"], state["next_try_at"]) == ("FAILURE", None)
        assert "SIGSEGV" in state["message"]

    def test_file_that_crashed_a_plugin_goes_alone(
        self, ingesting: Ingesting, tmp_path: Path
    ) -> None:
        journal = tmp_path / "journal"
        whole = ingesting.configure("whole", config={"journal": str(journal)})
        whole.store("vanish.1")
        whole.run()
        whole.wait_is_over()
        journal.unlink()
        whole.store("done.1", "done.2")
        whole.run()
        # Were it in one batch with the others, these would have been taken twice.
        assert sorted(journal.read_text().split()) == ["done.1", "done.2", "vanish.1"]

    def test_whatever_a_plugin_says_can_be_recorded(self, ingesting: Ingesting) -> None:
        words = r"printf '\000\377 x' >&2; exit 1"
        ingesting.configure("command", config={"command": f'sh -c "{words}" {{file}}'})
        ingesting.store("x.fits")
        assert ingesting.run() == 1

    def test_empty_file_is_invalid(self, ingesting: Ingesting) -> None:
        ingesting.store("empty.fits", content=b"")
        assert ingesting.run() == 1
        assert ingesting.state("empty.fits")["status"] == "INVALID"

    @pytest.mark.promise
    def test_four_culprits_in_a_thousand(self, ingesting: Ingesting) -> None:
        culprits = ["segfault.0", "hang.0", "exit.0", "memory.0"]
        ingesting.configure("naughty", timeout=1, memory_limit="512 MiB")
        ingesting.store(*culprits, *(f"done.{number}" for number in range(996)))
        assert ingesting.run() == 1
        found = ingesting.statuses()
        assert sorted(n for n, status in found.items() if status != "SUCCESS") == sorted(culprits)
        assert {found[name] for name in culprits} == {"UNKNOWN"}


class TestPatterns:
    def test_excluded_file_is_ignored(self, ingesting: Ingesting) -> None:
        ingesting.configure(include=[r"\.fits$"], exclude=["^flats/"])
        ingesting.store("x.fits", "x.log", "flats/y.fits")
        assert ingesting.run() == 0
        assert ingesting.statuses() == {
            "flats/y.fits": "IGNORED",
            "x.fits": "SUCCESS",
            "x.log": "IGNORED",
        }

    def test_ignored_file_was_never_pending(self, ingesting: Ingesting) -> None:
        ingesting.configure(include=[r"\.fits$"])
        ingesting.store("x.log")
        ingesting.run()
        assert ingesting.events("x.log") == ["UNTRIED", "IGNORED"]


class TestStorageTrouble:
    """DESIGN §6.5: transient is not permanent."""

    def test_unmounted_storage_changes_no_status(self, ingesting: Ingesting) -> None:
        ingesting.store("x.fits")
        (ingesting.site.storage / ".dbb-storage").unlink()
        assert ingesting.run() == 75
        assert ingesting.events("x.fits") == ["UNTRIED"]

    def test_unmounted_storage_is_no_trouble_while_nothing_is_due(
        self, ingesting: Ingesting
    ) -> None:
        ingesting.run()
        (ingesting.site.storage / ".dbb-storage").unlink()
        assert ingesting.run() == 0

    def test_storage_that_goes_while_files_are_claimed_charges_none(
        self, ingesting: Ingesting
    ) -> None:
        storage = ingesting.site.storage
        script = f"import os; os.rename({str(storage)!r}, {str(storage) + '.away'!r}); exit(1)"
        ingesting.configure(
            "command", config={"command": f'{sys.executable} -c "{script}" {{file}}'}
        )
        ingesting.store("x.fits", "y.fits")
        assert ingesting.run() == 75
        assert ingesting.statuses() == {"x.fits": "UNTRIED", "y.fits": "UNTRIED"}
        assert ingesting.state("x.fits")["attempts"] == 0

    @pytest.mark.parametrize("what", ["unseen", "unread"])
    @pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENAMETOOLONG])
    def test_file_that_alone_cannot_be_looked_at_or_read_is_charged(
        self, misbehaving: Ingesting, what: str, number: int
    ) -> None:
        misbehaving.store(name := f"{what}.{number}", "done.1")
        for attempt in (1, 2):
            assert misbehaving.run() == 1
            state = misbehaving.state(name)
            assert (state["status"], state["attempts"]) == ("FAILURE", attempt)
            assert (state["next_try_at"] is None) == (attempt == 2)
            misbehaving.wait_is_over()
        assert os.strerror(number) in state["message"]
        assert misbehaving.statuses()["done.1"] == "SUCCESS"

    @pytest.mark.parametrize(
        "name",
        [
            *("unseen.5.bare", "unseen.5.gone", "unread.5.bare", "segfault.bare", "never.bare"),
            f"unseen.{errno.ESTALE}",
        ],
    )
    def test_storage_that_fails_while_files_are_looked_at_or_read_charges_none(
        self, misbehaving: Ingesting, name: str
    ) -> None:
        misbehaving.store(name, "done.1")
        assert misbehaving.run() == 75
        state = misbehaving.state(name)
        assert (state["status"], state["attempts"]) == ("UNTRIED", 0)

    def test_parts_done_before_storage_went_away_are_kept(self, misbehaving: Ingesting) -> None:
        misbehaving.store("partly.bare")
        assert misbehaving.run() == 75
        state = misbehaving.state("partly.bare")
        assert (state["status"], state["attempts"]) == ("UNTRIED", 0)
        assert state["parts_done"] == '["first"]'

    def test_one_missing_file_is_tried_again_and_then_invalid(self, ingesting: Ingesting) -> None:
        ingesting.configure(max_attempts=2)
        ingesting.store("x.fits", "y.fits")
        (ingesting.site.storage / "x.fits").unlink()
        ingesting.run()
        ingesting.wait_is_over()
        assert ingesting.run() == 1
        assert ingesting.statuses() == {"x.fits": "FAILURE", "y.fits": "SUCCESS"}
        ingesting.wait_is_over()
        assert ingesting.run() == 1
        assert ingesting.state("x.fits")["status"] == "INVALID"

    def test_a_file_that_is_not_seen_once_costs_nothing(self, ingesting: Ingesting) -> None:
        ingesting.store("x.fits", "y.fits")
        away = (ingesting.site.storage / "x.fits").rename(ingesting.site.root / "away")
        assert ingesting.run() == 0
        assert ingesting.statuses() == {"x.fits": "UNTRIED", "y.fits": "SUCCESS"}
        assert ingesting.state("x.fits")["attempts"] == 0
        away.rename(ingesting.site.storage / "x.fits")
        ingesting.wait_is_over()
        assert ingesting.run() == 0
        assert ingesting.statuses() == {"x.fits": "SUCCESS", "y.fits": "SUCCESS"}

    def test_each_time_that_a_file_is_not_seen_counts_as_the_first_if_it_was_seen_between(
        self, ingesting: Ingesting
    ) -> None:
        ingesting.configure("command", config={"command": "false {file}"})
        ingesting.store("x.fits")
        away = ingesting.site.root / "away"
        for charged in (0, 1, 2):
            (ingesting.site.storage / "x.fits").rename(away)
            ingesting.run()
            assert ingesting.state("x.fits")["attempts"] == charged
            away.rename(ingesting.site.storage / "x.fits")
            ingesting.wait_is_over()
            ingesting.run()
            ingesting.wait_is_over()

    def test_many_missing_files_are_trouble_of_the_storage_area(self, ingesting: Ingesting) -> None:
        names = [f"{number:02}.fits" for number in range(20)]
        ingesting.store(*names)
        for name in names:
            (ingesting.site.storage / name).unlink()
        assert ingesting.run() == 75
        assert set(ingesting.statuses().values()) == {"UNTRIED"}

    def test_file_that_the_auditor_misses_is_given_up_until_it_is_there_again(
        self, ingesting: Ingesting
    ) -> None:
        ingesting.run()
        ingesting.store("x.fits")
        connect.execute("UPDATE file SET status = 'MISSING'")
        assert ingesting.run() == 1
        assert ingesting.state("x.fits")["message"] == "is MISSING in the storage area"
        auditor = ingesting.site.run("dbb-auditor")
        assert ingesting.statuses() == {"x.fits": "UNTRIED"}, auditor
        assert ingesting.run() == 0
        assert ingesting.statuses() == {"x.fits": "SUCCESS"}


def test_files_that_no_plugin_sees_are_recorded_as_they_come(
    ingesting: Ingesting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN §6.9: memory stays flat, and no transaction grows with the backlog."""
    assert ingesting.run() == 0
    ingesting.lose(3000)
    sizes, held = [], []

    def record(self: Claims, outcomes: Sequence[Outcome], real: Any = Claims.record) -> None:
        sizes.append(len(outcomes))
        held.append(len(self._claimed))
        real(self, outcomes)

    monkeypatch.setattr(Claims, "record", record)
    assert ingesting.run() == 1
    assert sum(sizes) == 3000
    assert max(sizes) == max(held) <= offer.MOST_WAITING + rules.SMALLEST
    assert connect.execute("SELECT DISTINCT status FROM ingest_state").fetchall() == [("INVALID",)]


class TestPluginThatCannotStart:
    @pytest.mark.parametrize(("start", "code"), [("notready", 75), ("misconfigured", 78)])
    def test_no_status_changes(self, ingesting: Ingesting, start: str, code: int) -> None:
        ingesting.configure("naughty", config={"start": start})
        ingesting.store("x.fits", "y.fits")
        assert ingesting.run() == code
        assert set(ingesting.statuses().values()) == {"UNTRIED"}
        ingesting.configure()
        assert ingesting.run() == 0


class TestOptions:
    def test_limit(self, ingesting: Ingesting) -> None:
        ingesting.store("1.fits", "2.fits", "3.fits")
        assert ingesting.run(limit=2) == 0
        assert ingesting.statuses() == {
            "1.fits": "SUCCESS",
            "2.fits": "SUCCESS",
            "3.fits": "UNTRIED",
        }

    def test_match_leaves_others_due(self, ingesting: Ingesting) -> None:
        ingesting.store(*(f"{number:03}.log" for number in range(30)), "x.fits")
        assert ingesting.run(match=("*.fits",)) == 0
        assert ingesting.statuses()["x.fits"] == "SUCCESS"
        assert ingesting.events("000.log") == ["UNTRIED"]

    def test_plan_says_which_files_and_changes_nothing(self, ingesting: Ingesting) -> None:
        ingesting.run()
        ingesting.configure(exclude=["log$"])
        ingesting.store("x.fits", "y.log")
        assert ingesting.plan() == ["would offer x.fits", "would ignore y.log"]
        assert ingesting.events("x.fits") == ["UNTRIED"]

    def test_plan_of_a_new_target_says_how_many_files(self, ingesting: Ingesting) -> None:
        ingesting.store("x.fits")
        (line,) = ingesting.plan()
        assert "would add target.a and make due 1 file of " in line

    def test_plan_says_when_storage_is_away(self, ingesting: Ingesting) -> None:
        (ingesting.site.storage / ".dbb-storage").unlink()
        (line,) = ingesting.plan()
        assert line.startswith("would leave with exit code 75")


class TestNames:
    NAMES = (" space", "quote'\"", "$(touch x)", "-dash", "new\nline", "#;", "back\\slash")

    def test_hostile_names_reach_the_command_intact(
        self, ingesting: Ingesting, tmp_path: Path
    ) -> None:
        names = [*self.NAMES, os.fsdecode(b"not utf-8 \xff")]
        ingesting.configure("command", config={"command": f"cp -- {{file}} {tmp_path}/copies/"})
        (tmp_path / "copies").mkdir()
        for name in names:
            store_by_bytes(ingesting, name)
        assert ingesting.run() == 0
        assert sorted(os.listdir(tmp_path / "copies")) == sorted(names)


def store_by_bytes(ingesting: Ingesting, name: str) -> None:
    ingesting.store(to_text(name))
    (ingesting.site.storage / to_text(name)).rename(ingesting.site.storage / name)


class TestWorkers:
    def test_each_worker_has_a_file(self, ingesting: Ingesting, tmp_path: Path) -> None:
        ingesting.configure(
            "command",
            workers=2,
            batch_files=1,
            config={"command": f"cat {tmp_path}/{{filename}} {{file}}"},
        )
        ingesting.store("1", "2")
        for name in ("1", "2"):
            os.mkfifo(tmp_path / name)
        process = subprocess.Popen(
            [sys.executable, TOP / "bin" / "dbb-ingester", "-c", ingesting.site.config]
        )
        writers = [open_when_read(tmp_path / name, meanwhile=process.poll) for name in ("1", "2")]
        for writer in writers:
            os.close(writer)
        assert process.wait() == 0
        assert ingesting.statuses() == {"1": "SUCCESS", "2": "SUCCESS"}


class TestFairness:
    def test_retries_do_not_starve_new_files(self, ingesting: Ingesting) -> None:
        ingesting.configure("naughty", batch_files=4)
        ingesting.store(*(f"failed.{number}" for number in range(8)))
        ingesting.run()
        ingesting.wait_is_over()
        ingesting.store(*(f"done.{number}" for number in range(3)))
        ingesting.run(limit=4)
        found = ingesting.statuses()
        assert [found[f"done.{number}"] for number in range(3)] == ["SUCCESS"] * 3

    def test_new_files_do_not_starve_retries(self, ingesting: Ingesting) -> None:
        ingesting.configure("naughty", batch_files=4)
        ingesting.store("failed.0")
        ingesting.run()
        ingesting.wait_is_over()
        ingesting.store(*(f"done.{number}" for number in range(8)))
        ingesting.run(limit=4)
        assert ingesting.state("failed.0")["attempts"] == 2

    def test_files_are_taken_in_order_of_arrival(
        self, ingesting: Ingesting, tmp_path: Path
    ) -> None:
        journal = tmp_path / "journal"
        ingesting.configure("naughty", config={"journal": str(journal)})
        names = [f"done.{number}" for number in (3, 1, 2)]
        ingesting.store(*names)
        ingesting.run()
        assert journal.read_text().split() == names


@pytest.mark.parametrize("fault", ["storage is ", "was retired on "])
def test_check_says_what_a_pass_says_of_a_target_that_the_database_knows_otherwise(
    site: Site, fault: str
) -> None:
    assert site.run("dbb-ingester", "a").code == 0
    assert site.run("dbb", "check").code == 0
    if fault == "storage is ":
        other = site.root / "other"
        other.mkdir()
        (other / SENTINEL).touch()
        site.write(targets={"a": {"storage": other}})
    else:
        assert site.run("dbb", "target", "retire", "a").code == 0
    ran, checked = site.run("dbb-ingester", "a"), site.run("dbb", "check")
    assert (ran.code, checked.code) == (78, 78)
    said = ran.err.removeprefix("target.a: ")
    assert said.startswith(fault)
    assert f"[target.a]: {said}" in checked.err
