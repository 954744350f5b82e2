"""The janitor: what it purges, and above all what it does not."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.areas.endpoint.batch import kept_name
from dbbbatch.database.models.handoff import HandoffFile
from dbbbatch.files import checksum, place
from dbbbatch.files.tree import Entry
from dbbbatch.passes import runner
from dbbbatch.passes.handoff.delivery import attempt_prefix
from dbbbatch.passes.janitor import Housekeeping, JanitorWork
from tests.support.disks import exchange
from tests.support.handing import HOSTILE, change, contents, make_pass, rows, statuses
from tests.support.mailbox import Box
from tests.support.scripts import TOP
from tests.support.site import Site, tree

KEYS: dict[str, Any] = {"min_free": 0, "purge_after": 0}


@pytest.fixture
def site(site: Site) -> Site:
    return configure(site)


def configure(site: Site, **keys: Any) -> Site:
    """Write a configuration in which the endpoint's `dbb confirm` is that of the same file."""
    ours = [sys.executable, f"{TOP}/bin/dbb", "-c", str(site.config), "confirm"]
    confirm = keys.pop("confirm", shlex.join(ours))
    more = {"targets": keys.pop("targets")} if "targets" in keys else {}
    return site.write(handoff={**KEYS, **keys}, endpoint={"confirm": confirm}, **more)


def janitor(site: Site, **options: Any) -> int:
    settings = site.settings()
    section = settings.handoff[site.name]
    return runner.run_pass(JanitorWork(section), settings, section, runner.Options(**options))


def store(site: Site) -> None:
    """Do what the endpoint's finder does, as far as the janitor asks."""
    for rel, content in tree(site.far_buffer).items():
        path = site.storage / rel
        path.parent.mkdir(parents=True, exist_ok=True)
        os.rename(site.far_buffer / rel, path)
        assert path.read_bytes() == content
    for relpath, filename, size, digest in rows(
        site,
        "DISTINCT relpath, filename, size_bytes, checksum",
        "handoff_file WHERE checksum IS NOT NULL",
    ):
        change(
            site,
            "INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status, finder)"
            " VALUES (?, ?, ?, ?, ?, 'STORED', 'latiss')",
            str(site.storage),
            relpath,
            filename,
            size,
            digest,
        )


def deliver(site: Site, *names: str, stored: bool = True) -> None:
    site.put_all(names or ["a/b"])
    assert make_pass(site) == 0
    if stored:
        store(site)


@pytest.mark.promise
def test_what_is_stored_at_the_endpoint_is_purged(site: Site) -> None:
    deliver(site, "a/b", "c")
    assert janitor(site) == 0
    assert tree(site.holding) == {}
    assert statuses(site) == {"a/b": "PURGED", "c": "PURGED"}
    assert all(all(times) for times in rows(site, "confirmed_at, purged_at"))


def stays(site: Site, code: int = 0) -> None:
    assert janitor(site) == code
    assert set(tree(site.holding)) == {"a/b"}
    assert rows(site, "status, purged_at") == [("HELD", None)]


@pytest.mark.promise
class TestRefusal:
    """Each of these must keep the file in holding."""

    def test_not_stored_yet(self, site: Site) -> None:
        deliver(site, stored=False)
        stays(site)

    @pytest.mark.parametrize("status", ["ARRIVING", "MISSING", "CORRUPT", "QUARANTINED"])
    def test_not_stored_any_more(self, site: Site, status: str) -> None:
        deliver(site)
        change(site, f"UPDATE file SET status = '{status}'")
        stays(site)

    def test_stored_with_another_checksum(self, site: Site) -> None:
        deliver(site)
        change(site, "UPDATE file SET checksum = 'blake2b:00'")
        stays(site)

    def test_stored_with_another_size(self, site: Site) -> None:
        deliver(site)
        change(site, "UPDATE file SET size_bytes = 1")
        stays(site)

    def test_stored_under_another_name(self, site: Site) -> None:
        deliver(site)
        change(site, "UPDATE file SET filename = 'other'")
        stays(site)

    def test_recorded_as_stored_but_gone_from_the_disk(self, site: Site) -> None:
        deliver(site)
        (site.storage / "a" / "b").unlink()
        stays(site)

    def test_recorded_as_stored_but_cut_short(self, site: Site) -> None:
        deliver(site)
        os.truncate(site.storage / "a" / "b", 1)
        stays(site)

    def test_not_old_enough(self, site: Site) -> None:
        configure(site, purge_after="1h")
        deliver(site)
        stays(site)

    def test_nobody_is_asked(self, site: Site) -> None:
        deliver(site)
        site.write(handoff=KEYS)
        stays(site)

    @pytest.mark.parametrize(
        "answer",
        ["false", "true", "echo nothing", "sh -c 'cat >/dev/null; echo 0 stored; echo end 1'"],
    )
    def test_no_answer(self, site: Site, answer: str) -> None:
        deliver(site)
        configure(site, confirm=answer)
        stays(site, 75)

    def test_an_answer_that_was_cut_off(self, site: Site) -> None:
        deliver(site)
        configure(
            site,
            confirm=f"sh -c '{sys.executable} {TOP}/bin/dbb -c {site.config} confirm | head -n 1'",
        )
        stays(site, 75)

    @pytest.mark.parametrize(
        "answer",
        [
            "say('0 stored', '7 stored', 'end 2')",
            "say('0 stored', '0 stored', 'end 2')",
            "say('0 stored', '1 stored', '2 stored', 'end 2')",
            "say('0 unknown', '0 stored', '1 stored', 'end 2')",
            "say('0 stored', '0 unknown', '1 stored', 'end 2')",
            "say('00 stored', '1 stored', 'end 2')",
            "say('0 stored', '1 stored', 'end 3')",
            "say('0 stored', '1 stored', 'end 2', 'end 2')",
            "say('0 stored indeed', '1 stored', 'end 2')",
            "say('end 2', '0 stored', '1 stored')",
            "say('0 stored', '1 stored', 'end 2'); sys.exit(1)",
        ],
    )
    def test_an_answer_that_is_not_one_word_for_each_file(
        self, site: Site, answer: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        deliver(site, "a/b", "c")
        program = site.root / "confirm.py"
        program.write_text(
            "import json, sys\n"
            "nonce = json.loads(sys.stdin.readline())['nonce']\n"
            "sys.stdin.read()\n"
            "def say(*lines):\n"
            "    for line in lines: print(nonce, line)\n"
            f"{answer}\n"
        )
        configure(site, confirm=f"{sys.executable} {program}")
        assert janitor(site) == 75
        assert set(tree(site.holding)) == {"a/b", "c"}
        assert rows(site, "status, confirmed_at") == [("HELD", None)] * 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "did not confirm" in line

    def test_an_endpoint_that_is_away(
        self, ssh_site: Site, own_ssh_server: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ssh_site.ssh = own_ssh_server
        configure(ssh_site)
        deliver(ssh_site)
        own_ssh_server.stop()
        stays(ssh_site, 75)
        assert len(capsys.readouterr().err.splitlines()) == 1

    def test_an_endpoint_whose_database_is_away(self, site: Site) -> None:
        deliver(site)
        other = site.root / "other.toml"
        other.write_text(site.config.read_text().replace(site.database_url, "sqlite:////no/db"))
        configure(site, confirm=f"{sys.executable} {TOP}/bin/dbb -c {other} confirm")
        stays(site, 75)

    def test_a_target_has_not_ingested_it(self, site: Site) -> None:
        configure(site, confirm_targets=["a"])
        deliver(site)
        change(
            site,
            "INSERT INTO target (site, name, storage, plugin, created_at)"
            " SELECT 'summit', 'a', storage, 'null', '2026-11-24 00:00:00' FROM file",
        )
        stays(site)

    def test_another_file_has_its_name_in_holding(self, site: Site) -> None:
        deliver(site)
        site.put("a/b", b"put here by somebody", site.holding)
        assert janitor(site) == 0
        assert tree(site.holding) == {"a/b": b"put here by somebody"}
        assert statuses(site) == {"a/b": "HELD"}


@pytest.mark.promise
def test_a_held_file_that_its_writer_goes_on_with_is_told_and_stays(site: Site) -> None:
    deliver(site, "a/b", "c")
    with (site.holding / "a/b").open("ab") as writer:
        writer.write(b" and more")
    ran = site.run("dbb-janitor")
    assert ran.code == 0
    assert "1 held file is not as delivered" in ran.err
    assert "a/b (3 bytes were delivered, and it has 12)" in ran.err
    assert tree(site.holding) == {"a/b": b"a/b and more"}
    assert statuses(site) == {"a/b": "HELD", "c": "PURGED"}
    assert site.run("dbb-janitor") == (0, "", "")


def test_so_is_one_that_is_not_of_age_and_that_nobody_is_asked_about(site: Site) -> None:
    site.write(handoff={"min_free": 0, "purge_after": "30d"})
    deliver(site, stored=False)
    with (site.holding / "a/b").open("ab") as writer:
        writer.write(b" and more")
    assert "a/b (3 bytes were delivered, and it has 12)" in site.run("dbb-janitor").err


def test_a_target_that_has_ingested_it_lets_it_go(site: Site) -> None:
    configure(site, confirm_targets=["a"])
    deliver(site)
    change(
        site,
        "INSERT INTO target (site, name, storage, plugin, created_at)"
        " SELECT 'summit', 'a', storage, 'null', '2026-11-24 00:00:00' FROM file",
    )
    change(
        site,
        "INSERT INTO ingest_state (file_id, target_id, status, changed_at)"
        " SELECT f.id, t.id, 'SUCCESS', '2026-11-24 00:00:00' FROM file f, target t",
    )
    janitor(site)
    assert statuses(site) == {"a/b": "PURGED"}


def test_names_are_data(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    site.put_all(contents(HOSTILE))
    make_pass(site)
    store(site)
    janitor(site)
    assert set(statuses(site).values()) == {"PURGED"}
    assert tree(site.holding) == {}


def test_thousands_are_confirmed_in_one_connection(ssh_site: Site, own_ssh_server: Any) -> None:
    ssh_site.ssh = own_ssh_server
    configure(ssh_site)
    deliver(ssh_site, *(f"night/{number}" for number in range(1000)))
    before = own_ssh_server.connections()
    janitor(ssh_site)
    assert tree(ssh_site.holding) == {}
    assert own_ssh_server.connections() - before == 2  # to confirm, and to look after staging


def test_while_space_is_lacking_younger_files_go_oldest_first(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbbbatch.files import place

    configure(site, purge_after="1h", holding_free=1000)
    for name in ("first", "second", "third"):
        site.put(name, b"x" * 100)
        make_pass(site)
    store(site)
    holding = str(site.holding)
    monkeypatch.setattr(place, "free_bytes", lambda path: 850 if path == holding else 1 << 40)
    janitor(site)
    assert set(tree(site.holding)) == {"third"}


class TestSpace:
    """Space is lacking for two files of 100 bytes; all are younger than purge_after."""

    @pytest.fixture
    def site(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
        from dbbbatch.files import place

        configure(site, purge_after="1h", holding_free=1000)
        for name in ("first", "second", "third", "fourth"):
            site.put(name, b"x" * 100)
            make_pass(site)
        store(site)
        holding = str(site.holding)

        def free(path: str) -> int:
            return 1200 - 100 * len(tree(site.holding)) if path == holding else 1 << 40

        monkeypatch.setattr(place, "free_bytes", free)
        return site

    @pytest.mark.parametrize("together", [1, 2, 5000])
    def test_what_is_not_confirmed_is_passed_over(
        self,
        site: Site,
        together: int,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr("dbbbatch.passes.janitor._ASKED_TOGETHER", together)
        change(site, "UPDATE file SET status = 'QUARANTINED' WHERE filename = 'first'")
        assert janitor(site) == 0
        assert set(tree(site.holding)) == {"first", "fourth"}
        assert capsys.readouterr().err == ""

    def test_what_does_not_match_makes_no_space(self, site: Site) -> None:
        janitor(site, match=("*th",))
        assert set(tree(site.holding)) == {"first", "second", "third"}

    def test_what_cannot_be_removed_makes_no_space(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def move(
            entry: Entry, to: Entry, real: Callable[[Entry, Entry], None] = Entry.move_to
        ) -> None:
            if entry.name == "first":
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), entry.path)
            real(entry, to)

        monkeypatch.setattr(Entry, "move_to", move)
        janitor(site)
        assert set(tree(site.holding)) == {"first", "fourth"}

    def test_it_is_said_when_nothing_more_is_confirmed(
        self, site: Site, capsys: pytest.CaptureFixture[str]
    ) -> None:
        change(site, "UPDATE file SET status = 'QUARANTINED' WHERE filename <> 'third'")
        janitor(site)
        assert set(tree(site.holding)) == {"first", "second", "fourth"}
        assert "confirms no more files" in capsys.readouterr().err

    def test_it_is_not_said_when_not_all_were_asked_about(
        self, site: Site, capsys: pytest.CaptureFixture[str]
    ) -> None:
        janitor(site, limit=1)
        assert set(tree(site.holding)) == {"second", "third", "fourth"}
        assert capsys.readouterr().err == ""

    def test_a_dry_run_stops_where_there_would_be_space(self, site: Site) -> None:
        settings = site.settings()
        section = settings.handoff[site.name]
        said = list(runner.plan_pass(JanitorWork(section), settings, section, runner.Options()))
        assert [line.rpartition(" ")[2] for line in said] == ["first", "second"]


def test_a_full_disk_does_not_keep_the_janitor_from_making_room(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbbbatch.files import place

    deliver(site)
    monkeypatch.setattr(place, "free_bytes", lambda path: 0)
    janitor(site)
    assert tree(site.holding) == {}


def test_a_version_is_purged_by_the_name_that_it_got(site: Site) -> None:
    site.put("a", b"elsewhere", site.holding)
    deliver(site, "a")
    janitor(site)
    assert tree(site.holding) == {"a": b"elsewhere"}


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.mark.promise
def test_a_kill_between_removing_and_recording_is_made_good(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: Any) -> None:
        raise Killed

    deliver(site)
    with monkeypatch.context() as patched:
        patched.setattr(HandoffFile, "purged", kill)
        with pytest.raises(Killed):
            janitor(site)
    assert tree(site.holding) == {}
    assert statuses(site) == {"a/b": "HELD"}
    assert janitor(site) == 0
    assert statuses(site) == {"a/b": "PURGED"}


def assert_purged_and_held(site: Site, purged: int, held: int) -> None:
    """The versions of a file are told apart: one is gone, the other is where its row says."""
    found = sorted(rows(site, "size_bytes, status, held_as"))
    assert [row[:2] for row in found] == sorted([(purged, "PURGED"), (held, "HELD")])
    ((name, content),) = tree(site.holding).items()
    assert len(content) == held
    assert [f"a/{row[2]}" for row in found if row[0] == held] == [name]


@pytest.mark.promise
@pytest.mark.parametrize(
    "step", [(Entry, "unlink"), (HandoffFile, "purged"), (HandoffFile, "renamed")]
)
def test_a_version_that_is_held_after_a_kill_is_not_taken_for_the_earlier_one(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: tuple[type, str],
) -> None:
    def kill(*_: Any) -> None:
        raise Killed

    deliver(site)
    steps = [(Entry, "unlink"), step] if step[1] == "renamed" else [step]
    for number, each in enumerate(steps):
        with monkeypatch.context() as patched:
            patched.setattr(*each, kill)
            with pytest.raises(Killed):
                janitor(site)
        if number == 0:
            site.put("a/b", b"the second version")
            assert make_pass(site) == 0
    capsys.readouterr()
    for _ in range(2):
        assert janitor(site) == 0
        assert "changed" not in (said := capsys.readouterr().err)
        assert "as delivered" not in said
        assert_purged_and_held(site, len(b"a/b"), len(b"the second version"))


@pytest.mark.promise
def test_a_version_that_lost_its_name_to_a_later_one_is_found_by_its_inode(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    deliver(site)
    site.put("a/b", b"the second version")
    assert make_pass(site) == 0
    change(site, "UPDATE handoff_file SET held_as = 'b'")
    (site.holding / "a/b").rename(site.holding / "a/c")
    (site.holding / "a/b.~1~").rename(site.holding / "a/b")
    (site.holding / "a/c").rename(site.holding / "a/b.~1~")
    assert [janitor(site), janitor(site)] == [0, 0]
    assert "as delivered" not in capsys.readouterr().err
    assert_purged_and_held(site, len(b"a/b"), len(b"the second version"))


@pytest.mark.promise
def test_what_a_kill_left_hidden_gets_its_name_back_though_it_is_no_longer_confirmed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: Any) -> None:
        raise Killed

    deliver(site)
    with monkeypatch.context() as patched:
        patched.setattr(Entry, "unlink", kill)
        with pytest.raises(Killed):
            janitor(site)
    assert "a/b" not in tree(site.holding)
    change(site, "UPDATE file SET status = 'MISSING'")
    stays(site)


@pytest.mark.promise
def test_one_that_cannot_be_given_back_is_not_taken_for_purged(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    deliver(site)
    with monkeypatch.context() as patched:
        patched.setattr(Entry, "unlink", refuse)
        patched.setattr(place, "place_versioned", refuse)
        assert janitor(site) == 0
        assert janitor(site) == 0
        assert statuses(site) == {"a/b": "HELD"}
    assert janitor(site) == 0
    assert statuses(site) == {"a/b": "PURGED"}


@pytest.mark.promise
@pytest.mark.parametrize("name", ["lstat", "move_to"])
def test_one_that_is_not_found_for_a_moment_is_not_taken_for_purged(
    site: Site, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    lose_once = iter([FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))])

    real = getattr(Entry, name)

    def lose(entry: Entry, *more: Entry) -> Any:
        for error in lose_once if entry.name == "b" and marked else ():
            raise error
        return real(entry, *more)

    marked: list[int] = []
    mark = HandoffFile.confirmed
    deliver(site)
    monkeypatch.setattr(Entry, name, lose)
    monkeypatch.setattr(HandoffFile, "confirmed", lambda ids: (mark(ids), marked.extend(ids)))
    assert janitor(site) == 0
    assert (set(tree(site.holding)), statuses(site)) == ({"a/b"}, {"a/b": "HELD"})
    assert janitor(site) == 0
    assert (set(tree(site.holding)), statuses(site)) == (set(), {"a/b": "PURGED"})


class TestExchangedDirectory:
    """Somebody puts a link to private files where a directory of the holding area was."""

    @pytest.fixture
    def private(self, site: Site) -> Path:
        """Make a file that is the held one in all but its place, and a link to its directory."""
        deliver(site)
        private = site.holding.parent / "private"
        shutil.copytree(site.holding / "a", private)
        (site.holding.parent / "link").symlink_to(private)
        return private

    @pytest.mark.promise
    def test_what_lies_behind_a_link_is_not_purged(self, site: Site, private: Path) -> None:
        exchange(site.holding.parent / "link", site.holding / "a")
        ran = site.run("dbb-janitor")
        assert "a/b: cannot be purged: Not a directory" in ran.err
        assert tree(private) == {"b": b"a/b"}
        assert statuses(site) == {"a/b": "HELD"}

    @pytest.mark.promise
    def test_nor_if_the_link_comes_after_the_look(
        self, site: Site, private: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mark = HandoffFile.confirmed

        def exchanged(ids: list[int]) -> None:
            mark(ids)
            exchange(site.holding.parent / "link", site.holding / "a")

        with monkeypatch.context() as patched:
            patched.setattr(HandoffFile, "confirmed", exchanged)
            assert janitor(site) == 75
        assert tree(private) == {"b": b"a/b"}
        assert statuses(site) == {"a/b": "HELD"}
        # The file itself is gone, which is found out when its directory is back.
        assert janitor(site) == 0
        assert statuses(site) == {"a/b": "HELD"}
        exchange(site.holding.parent / "link", site.holding / "a")
        assert janitor(site) == 0
        assert statuses(site) == {"a/b": "PURGED"}


class TestMissing:
    """Held files that are not where they should be, and that no pass removed."""

    @pytest.mark.promise
    def test_a_holding_area_that_is_away_was_not_purged(
        self, site: Site, capsys: pytest.CaptureFixture[str]
    ) -> None:
        deliver(site, "a/b", "c")
        away = unmount(site)
        for _ in range(2):
            assert janitor(site) == 75
        assert set(statuses(site).values()) == {"HELD"}
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{site.holding}: 2 held files are not there" in line
        assert "is it mounted?" in line
        mount(site, away)
        assert janitor(site) == 0
        assert tree(site.holding) == {}
        assert set(statuses(site).values()) == {"PURGED"}

    @pytest.mark.promise
    def test_nor_was_it_if_earlier_passes_could_not_remove_the_files(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(entry: Entry) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), entry.path)

        deliver(site)
        with monkeypatch.context() as patched:
            patched.setattr(Entry, "unlink", refuse)
            janitor(site)
        unmount(site)
        assert janitor(site) == 75
        assert statuses(site) == {"a/b": "HELD"}

    @pytest.mark.promise
    def test_nor_was_a_version_that_was_purged_and_sent_once_more(self, site: Site) -> None:
        deliver(site)
        written = os.lstat(site.holding / "a" / "b").st_mtime_ns
        janitor(site)
        path = site.put("a/b", b"a/b")
        os.utime(path, ns=(written, written))
        assert make_pass(site) == 0
        assert rows(site, "status") == ["HELD"]
        unmount(site)
        assert janitor(site) == 75
        assert statuses(site) == {"a/b": "HELD"}

    @pytest.mark.promise
    def test_nor_was_it_by_a_pass_that_was_killed(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def kill(*_: Any) -> None:
            raise Killed

        monkeypatch.setattr("dbbbatch.passes.janitor._MARKED", 1)
        deliver(site, "a", "b")
        with monkeypatch.context() as patched:
            patched.setattr(Entry, "unlink", kill)
            with pytest.raises(Killed):
                janitor(site)
        away = unmount(site)
        assert janitor(site) == 75
        assert set(statuses(site).values()) == {"HELD"}
        mount(site, away)
        assert janitor(site) == 0
        assert tree(site.holding) == {}

    def test_a_few_of_many_are_told_and_left(
        self, site: Site, capsys: pytest.CaptureFixture[str]
    ) -> None:
        deliver(site, "a", "b", "c")
        (site.holding / "b").unlink()
        assert janitor(site) == 0
        assert statuses(site) == {"a": "PURGED", "b": "HELD", "c": "PURGED"}
        assert "1 held file is not there" in capsys.readouterr().err

    def test_most_are_the_same_trouble_as_a_few(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        box = Box(tmp_path / "box")
        monkeypatch.setattr(Site, "alert", {"command": box.command})
        deliver(configure(site), "a", "b", "c")
        (site.holding / "a").unlink()
        assert janitor(site) == 0
        assert janitor(site) == 75  # the others are purged by now
        assert "".join(box.new()).count("BEGINS: ") == 1

    def test_a_person_who_removed_them_says_so(
        self, site: Site, capsys: pytest.CaptureFixture[str]
    ) -> None:
        deliver(site)
        (site.holding / "a" / "b").unlink()
        assert janitor(site) == 75
        assert "dbb ignore handoff.latiss --status HELD --match" in capsys.readouterr().err
        ran = site.run("dbb", "ignore", "handoff.latiss", "--status", "HELD", "--match", "*")
        assert ran.code == 0
        assert janitor(site) == 0
        assert statuses(site) == {"a/b": "IGNORED"}


def unmount(site: Site) -> Path:
    """Take the disk of the near end away; empty directories stay below its mount points."""
    away = site.root / "away"
    (site.root / "summit").rename(away)
    for directory in (site.buffer, site.holding, site.quarantine):
        directory.mkdir(parents=True)
    return away


def mount(site: Site, away: Path) -> None:
    shutil.rmtree(site.root / "summit")
    away.rename(site.root / "summit")


@pytest.fixture
def leave(site: Site) -> Callable[[str], None]:
    def in_staging(name: str) -> None:
        site.put(f"{name}/t/a", b"left", site.staging)
        os.utime(site.staging / name, (1e9, 1e9))

    return in_staging


def test_old_leftovers_of_ours_leave_staging(site: Site, leave: Callable[[str], None]) -> None:
    for number, end in enumerate(("", ".r", ".x", ".r.x")):
        leave(attempt("latiss", number) + end)
    leave(f"{attempt('latiss', 5)}-trial")
    leave(kept_name(attempt("latiss", 6), 1))
    leave(f"dbb-check-{5:016x}.x")
    fresh = attempt("latiss", 9)
    (site.staging / fresh).mkdir()
    janitor(site)
    assert os.listdir(site.staging) == [fresh]


def attempt(handoff: str, number: int, site: str = "summit") -> str:
    return f"{attempt_prefix(site, handoff)}{number:016x}"


@pytest.mark.promise
def test_what_other_handoffs_have_in_staging_stays(
    site: Site, leave: Callable[[str], None]
) -> None:
    own = attempt_prefix("summit", "latiss")
    others = {
        attempt("latiss-2", 1),
        attempt("latiss-0123456789abcdef", 1),
        attempt("latiss", 1, "summit-latiss"),
        f"{own}2-0123456789abcdef",
        f"{own}0123456789abcdef-0123456789abcdef",
        f"{own}kept-by-a-person",
        attempt("latiss", 1, "partial"),
        "dbb-partial-results",
    }
    for name in others:
        leave(name)
    janitor(site)
    assert set(os.listdir(site.staging)) == others


@pytest.mark.parametrize(
    ("one", "other"),
    [(("a", "b-c"), ("a-b", "c")), (("é", "x"), ("_", "x")), (("a", "b"), ("a", "b-2"))],
)
def test_no_two_handoffs_have_the_same_names_in_staging(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    first, second = attempt_prefix(*one), attempt_prefix(*other)
    assert not first.startswith(second)
    assert not second.startswith(first)


def test_what_rsync_left_of_files_long_ago_leaves_staging(
    site: Site, leave: Callable[[str], None]
) -> None:
    leave("dbb-partial")
    janitor(site)
    assert os.listdir(site.staging) == []


def test_what_recovery_will_ask_for_stays_in_staging(
    site: Site, leave: Callable[[str], None]
) -> None:
    deliver(site)
    (attempt,) = rows(site, "attempt", "transfer_batch")
    change(site, "UPDATE transfer_batch SET status = 'OPEN'")
    leave(attempt)
    janitor(site)
    assert os.listdir(site.staging) == [attempt]


def test_empty_directories_go_but_never_a_root(site: Site) -> None:
    site.put("sent/a")
    assert site.run("dbb-handoff").code == 0
    assert os.listdir(site.buffer) == ["sent"]
    # From this one nothing was sent: a writer may have made it for what is to come.
    (site.buffer / "new").mkdir()
    (site.holding / "empty").mkdir()
    for path in (site.buffer / "new", site.buffer / "sent", site.holding / "empty"):
        os.utime(path, (1e9, 1e9))
    for root in (site.buffer, site.holding):
        os.utime(root, (1e9, 1e9))
    janitor(site)
    assert (os.listdir(site.buffer), os.listdir(site.holding)) == (["new"], ["sent"])


@pytest.mark.promise
class TestOtherAlgorithm:
    """The two ends record different checksums."""

    @pytest.fixture
    def site(self, site: Site) -> Site:
        self.found(configure(site, checksum="sha256"), checksum="blake2b")
        deliver(site, stored=False)
        return site

    def found(self, site: Site, **keys: Any) -> None:
        """Let the endpoint's finder record others."""
        handoff = {**KEYS, "checksum": "sha256"}
        confirm = site.settings().handoff[site.name].endpoint.confirm
        site.write(handoff=handoff, endpoint={"confirm": confirm}, finder=keys)

    def test_one_that_both_have_is_compared(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.found(site, checksum="blake2b", checksums=["md5", "sha256"])
        assert site.run("dbb-finder").code == 0
        # Nothing in holding is read.
        monkeypatch.setattr(checksum, "compute", None)
        assert janitor(site) == 0
        assert statuses(site) == {"a/b": "PURGED"}

    def test_one_that_both_have_and_that_differs_keeps_the_file(self, site: Site) -> None:
        self.found(site, checksum="blake2b", checksums=["sha256"])
        site.run("dbb-finder")
        change(site, "UPDATE file_checksum SET value = '00'")
        stays(site)

    def test_held_file_is_compared_by_that_of_the_endpoint(self, site: Site) -> None:
        site.run("dbb-finder")
        assert janitor(site) == 0
        assert statuses(site) == {"a/b": "PURGED"}
        assert tree(site.holding) == {}

    def test_other_content_at_the_endpoint_keeps_the_file(self, site: Site) -> None:
        site.run("dbb-finder")
        change(site, "UPDATE file SET checksum = 'blake2b:00'")
        stays(site)

    def test_held_file_that_was_altered_stays(
        self, site: Site, capsys: pytest.CaptureFixture[str]
    ) -> None:
        site.run("dbb-finder")
        (site.holding / "a" / "b").write_bytes(b"a/c")
        capsys.readouterr()
        stays(site)
        said = capsys.readouterr().err
        assert "its checksum is sha256 here and blake2b there" in said
        assert f"let `checksum` of [handoff.{site.name}] be that of the endpoint's finder" in said

    def test_young_files_are_not_read(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        site.run("dbb-finder")
        site.config.write_text(
            site.config.read_text().replace("purge_after = 0", 'purge_after = "1h"')
        )
        assert site.settings().handoff[site.name].purge_after == 3600
        monkeypatch.setattr(Housekeeping, "_read", None)
        stays(site)


@pytest.mark.promise
class TestUnconfirmed:
    """Files of age that the endpoint does not confirm may be lost there."""

    def test_is_told_once_with_the_oldest(
        self, site: Site, capsys: pytest.CaptureFixture[str]
    ) -> None:
        deliver(site, "a b", stored=False)
        capsys.readouterr()
        assert janitor(site) == 0
        said = capsys.readouterr().err
        assert "past purge_after, 1 held file is not confirmed" in said
        assert "the oldest a b (unknown), held since 20" in said
        assert "`dbb history 'a b'` there says why" in said
        janitor(site)
        assert capsys.readouterr().err == ""

    def test_what_only_the_disk_lacks_is_found_by_the_auditor_that_is_named(
        self, site: Site, capsys: pytest.CaptureFixture[str]
    ) -> None:
        deliver(site, "a", "b")
        (site.storage / "a").unlink()
        capsys.readouterr()
        janitor(site)
        assert "(missing), held since 20" in (said := capsys.readouterr().err)
        assert "`dbb-auditor --all --share 0` there says why" in said
        site.run("dbb-auditor", "--all", "--share", "0", "--missing", "1")
        assert rows(site, "status", "file ORDER BY filename") == ["MISSING", "STORED"]

    def test_is_over_when_they_are_stored(
        self, site: Site, capsys: pytest.CaptureFixture[str]
    ) -> None:
        deliver(site, stored=False)
        janitor(site)
        store(site)
        capsys.readouterr()
        janitor(site)
        assert "is over: " in capsys.readouterr().err
        assert rows(site, "status, error") == [("PURGED", None)]

    def test_each_is_named_with_v(self, site: Site, caplog: pytest.LogCaptureFixture) -> None:
        deliver(site, "a", "b", stored=False)
        with caplog.at_level("INFO", "dbbbatch"):
            janitor(site)
        for name in ("a", "b"):
            assert f"{name}: not confirmed by the endpoint: unknown" in caplog.messages

    def test_the_reason_is_kept(self, site: Site) -> None:
        deliver(site, stored=False)
        janitor(site)
        assert rows(site, "error") == ["not confirmed by the endpoint: unknown"]

    def test_a_young_file_is_no_trouble(
        self, site: Site, capsys: pytest.CaptureFixture[str]
    ) -> None:
        configure(site, purge_after="1d", holding_free="8000 PB")
        deliver(site, stored=False)
        capsys.readouterr()
        janitor(site)
        assert "not confirmed" not in capsys.readouterr().err


def test_a_dry_run_escapes_names(site: Site) -> None:
    deliver(site, "two\nlines")
    assert site.run("dbb-janitor", "--dry-run").out.count("\n") == 1


def test_a_dry_run_says_what_would_be_asked(site: Site) -> None:
    deliver(site)
    ran = site.run("dbb-janitor", "--dry-run")
    assert ran.out.splitlines() == ["purge, if the endpoint confirms it: a/b"]
    assert set(tree(site.holding)) == {"a/b"}


def test_confirm_refuses_what_is_no_question(site: Site) -> None:
    assert site.run("dbb", "confirm", stdin=b"hello\n").code == 64


def test_confirm_refuses_a_line_without_end(site: Site) -> None:
    assert site.run("dbb", "confirm", stdin=b"x" * 1_000_000).code == 64


@pytest.mark.parametrize(
    "confirm", ["yes noise", "sh -c 'yes noise >&2'", "sh -c 'yes x | tr -d \\n'"]
)
def test_an_answer_without_end_is_none(site: Site, confirm: str) -> None:
    deliver(site)
    configure(site, confirm=confirm, timeout="1s")
    stays(site, code=75)


@pytest.mark.promise
class TestClocks:
    """A file that was held while a clock was wrong is purged neither early nor years late."""

    def test_held_by_a_clock_ahead_it_is_of_age_as_if_held_now(self, site: Site) -> None:
        configure(site, purge_after="1h")
        deliver(site)
        change(site, "UPDATE handoff_file SET held_at = '2099-01-01 00:00:00.000000'")
        os.utime(site.holding / "a/b")
        stays(site)
        (held,) = rows(site, "held_at")
        assert not str(held).startswith("2099")

    def test_held_by_a_clock_behind_it_is_no_older_than_its_content(self, site: Site) -> None:
        configure(site, purge_after="1h")
        deliver(site)
        change(site, "UPDATE handoff_file SET held_at = '1970-01-01 00:00:00.000000'")
        stays(site)

    def test_a_time_of_its_content_that_is_yet_to_come_says_nothing(self, site: Site) -> None:
        configure(site, purge_after="1h")
        os.utime(site.put("a/b"), (4e9, 4e9))
        assert make_pass(site) == 0
        store(site)
        change(site, "UPDATE handoff_file SET held_at = '2020-01-01 00:00:00.000000'")
        assert janitor(site) == 0
        assert tree(site.holding) == {}
