"""The handoff when all is well: what goes where, what is recorded, and what is left alone."""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.passes.handoff import scanning, scheduler
from dbbbatch.passes.handoff.delivery import attempt_prefix
from tests.support.handing import HOSTILE, change, contents, make_pass, rows, statuses
from tests.support.site import Site, tree


@pytest.fixture
def site(by_each_way: None, site: Site) -> Site:
    return site.write(handoff={"min_free": 0})


def test_files_arrive_with_their_relative_paths(site: Site) -> None:
    files = {"top.fits": b"1", "2026-11-24/a.fits": b"2", "2026-11-24/deep/er/b.fits": b""}
    site.put_all(files)
    assert make_pass(site) == 0
    assert tree(site.far_buffer) == files


def test_originals_are_moved_to_holding(site: Site) -> None:
    site.put_all(["a/b.fits"])
    make_pass(site)
    assert (tree(site.buffer), tree(site.holding)) == ({}, {"a/b.fits": b"a/b.fits"})


def test_nothing_is_left_in_staging(site: Site) -> None:
    site.put_all(["a/b.fits"])
    make_pass(site)
    assert os.listdir(site.staging) == []


def test_each_step_is_recorded(site: Site) -> None:
    site.put_all(["a/b.fits"])
    make_pass(site)
    columns = "relpath, filename, size_bytes, status, held_as, attempts, error"
    assert rows(site, columns) == [("a", "b.fits", 8, "HELD", "b.fits", 0, None)]
    assert all(rows(site, "discovered_at, delivered_at, held_at, checksum")[0])


def test_a_batch_tells_its_durations_and_its_rate(site: Site) -> None:
    site.put_all(["a/b.fits", "a/c.fits"])
    make_pass(site)
    assert rows(site, "files, size_bytes, status, exit_status, error", "transfer_batch") == [
        (2, 16, "DONE", None if site.by_stream else 0, None)
    ]
    durations = "prepare_duration, transfer_duration, place_duration, rate"
    assert all(rows(site, durations, "transfer_batch")[0])


def test_a_batch_tells_what_came_of_each_file(site: Site) -> None:
    site.put_all(["a/b.fits"])
    make_pass(site)
    assert rows(site, "outcome, error", "transfer_attempt") == [("DELIVERED", None)]


def test_it_says_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.put_all(["a/b.fits"])
    make_pass(site)
    assert capsys.readouterr() == ("", "")


def test_a_second_pass_has_nothing_to_do(site: Site) -> None:
    site.put_all(["a/b.fits"])
    make_pass(site)
    assert make_pass(site) == 0
    assert len(rows(site, "id", "transfer_batch")) == 1


@pytest.mark.promise
def test_names_are_data_by_cp(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_hostile(site, tmp_path, monkeypatch)


@pytest.mark.promise
@pytest.mark.parametrize("how", ["scp", "rsync"])
def test_names_are_data_over_ssh(
    ssh_site: Site, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh_site.write(handoff={"min_free": 0}, endpoint={"transfer": getattr(ssh_site.ssh, how)})
    go_hostile(ssh_site, tmp_path, monkeypatch)


def go_hostile(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = contents(HOSTILE)
    site.put_all(files)
    assert make_pass(site) == 0
    assert tree(site.far_buffer) == tree(site.holding) == files
    assert not [path for path in tmp_path.rglob("x") if path.parent.name != "$(touch x)"]


def test_every_name_is_a_command_of_its_own_by_file(site: Site) -> None:
    site.write(handoff={"min_free": 0}, endpoint={"transfer": "cp -p {file} {dest}"})
    site.put_all(["a/b", "a/c", "d"])
    assert make_pass(site) == 0
    assert set(tree(site.far_buffer)) == {"a/b", "a/c", "d"}


def test_a_directory_larger_than_one_command_line_is_divided(site: Site) -> None:
    names = [f"night/{'long' * 50}{number:04}" for number in range(700)]
    site.put_all(names)
    assert make_pass(site) == 0
    assert len(tree(site.far_buffer)) == 700


@pytest.mark.promise
def test_connections_do_not_grow_with_files_and_directories(
    ssh_site: Site, own_ssh_server: object
) -> None:
    ssh_site.ssh = own_ssh_server
    ssh_site.write(handoff={"min_free": 0})
    content = os.urandom(64 * 1024)
    for number in range(615):
        ssh_site.put(f"night {number % 3}/{number}.fits", content)
    before = own_ssh_server.connections()
    assert make_pass(ssh_site) == 0
    assert own_ssh_server.connections() - before == 2
    assert set(statuses(ssh_site).values()) == {"HELD"}
    assert len(tree(ssh_site.far_buffer)) == len(tree(ssh_site.holding)) == 615


def test_scp_makes_a_connection_for_each_directory(ssh_site: Site, own_ssh_server: object) -> None:
    ssh_site.ssh = own_ssh_server
    ssh_site.write(handoff={"min_free": 0}, endpoint={"transfer": own_ssh_server.scp})
    ssh_site.put_all(f"night {number % 3}/{number}" for number in range(12))
    before = own_ssh_server.connections()
    make_pass(ssh_site)
    assert own_ssh_server.connections() - before == 1 + 3


def test_several_batches_are_delivered_by_several_streams(site: Site) -> None:
    site.write(handoff={"min_free": 0, "batch_files": 3, "streams": 3})
    site.put_all(f"{number:02}" for number in range(20))
    assert make_pass(site) == 0
    assert rows(site, "count(*), sum(files)", "transfer_batch") == [(7, 20)]
    assert len(tree(site.far_buffer)) == 20


def test_what_is_sent_while_the_scan_goes_on_is_sent_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "CHUNK", 7)
    monkeypatch.setattr(scheduler, "HEAD_START", 0)
    site.write(handoff={"min_free": 0, "batch_files": 5})
    site.put_all(f"{number % 4}/{number:02}" for number in range(60))
    assert make_pass(site) == 0
    assert len(tree(site.far_buffer)) == len(rows(site, "outcome", "transfer_attempt")) == 60
    assert '"vanished": 0' in rows(site, "counts", "run")[0]


def test_a_batch_is_bounded_by_bytes(site: Site) -> None:
    site.write(handoff={"min_free": 0, "batch_bytes": 100})
    for number in range(4):
        site.put(f"{number}", b"x" * 50)
    site.put("large", b"x" * 500)
    make_pass(site)
    assert sorted(rows(site, "size_bytes", "transfer_batch")) == [100, 100, 500]


@pytest.mark.parametrize(("order", "first"), [("oldest", "old"), ("newest", "new")])
def test_the_order_is_that_of_the_configuration(site: Site, order: str, first: str) -> None:
    site.write(handoff={"min_free": 0, "order": order})
    for rel, when in (("old", 1e9), ("new", 1.5e9), ("middle", 1.2e9)):
        os.utime(site.put(rel), (when, when))
    make_pass(site, limit=1)
    assert list(tree(site.far_buffer)) == [first]


def test_priority_goes_before_age(site: Site) -> None:
    site.write(handoff={"min_free": 0, "priority": [r"^live/", r"\.fits$"]})
    for number, rel in enumerate(["old.dat", "old.fits", "live/new.dat"]):
        os.utime(site.put(rel), (1e9 + number, 1e9 + number))
    make_pass(site, limit=1)
    make_pass(site, limit=1)
    assert set(tree(site.far_buffer)) == {"live/new.dat", "old.fits"}


def test_excluded_and_unsettled_files_stay(site: Site) -> None:
    site.write(handoff={"min_free": 0, "exclude": [r"\.tmp$"], "settle": "1h"})
    site.put("a.tmp")
    site.put("fresh")
    os.utime(site.put("settled"), (1e9, 1e9))
    os.utime(site.put("settled.tmp"), (1e9, 1e9))
    make_pass(site)
    assert set(tree(site.far_buffer)) == {"settled"}


def test_only_what_matches_goes(site: Site) -> None:
    site.put_all(["2026-11-23/a", "2026-11-24/deep/b"])
    make_pass(site, match=("2026-11-24/*",))
    assert set(tree(site.far_buffer)) == {"2026-11-24/deep/b"}


def test_what_is_no_regular_file_is_reported_and_left(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    (site.buffer / "link").symlink_to("/etc/passwd")
    os.mkfifo(site.buffer / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(site.buffer / "socket"))
    site.put("a")
    make_pass(site)
    said = capsys.readouterr().err
    assert all(what in said for what in ("a symbolic link", "a FIFO", "a socket"))
    assert sorted(os.listdir(site.buffer)) == ["fifo", "link", "socket"]


def test_a_held_file_is_kept_beside_its_next_version(site: Site) -> None:
    for content in (b"first", b"second version", b"third"):
        site.put("a/b", content)
        make_pass(site)
        (site.far_buffer / "a" / "b").unlink()
    assert tree(site.holding) == {
        "a/b": b"first",
        "a/b.~1~": b"second version",
        "a/b.~2~": b"third",
    }


def test_a_file_that_comes_back_is_sent_again(site: Site) -> None:
    site.put("a", b"x")
    make_pass(site)
    os.rename(site.holding / "a", site.buffer / "a")
    (site.far_buffer / "a").unlink()
    make_pass(site)
    assert set(tree(site.far_buffer)) == {"a"}
    assert rows(site, "status") == ["HELD"]


def test_the_same_content_in_the_endpoints_buffer_is_not_sent_again(site: Site) -> None:
    # As after a database that was restored from last night.
    site.put("a", b"same")
    site.put("a", b"same", site.far_buffer)
    site.write(handoff={"min_free": 0}, endpoint={"transfer": "false {batch} {dest}"})
    assert make_pass(site) == 0
    assert statuses(site) == {"a": "HELD"}


def test_empty_directories_go_when_they_are_old(site: Site) -> None:
    site.write(handoff={"min_free": 0, "expiration": "1h"})
    for name in ("old", "fresh"):
        site.put(f"{name}/a")
    make_pass(site)
    os.utime(site.buffer / "old", (1e9, 1e9))
    make_pass(site)
    assert os.listdir(site.buffer) == ["fresh"]


def test_the_buffer_itself_stays(site: Site) -> None:
    site.write(handoff={"min_free": 0, "expiration": 0})
    os.utime(site.buffer, (1e9, 1e9))
    make_pass(site)
    assert site.buffer.is_dir()


def test_a_dry_run_says_what_would_be_sent_and_changes_nothing(site: Site) -> None:
    site.put_all(["a/b", "c"])
    ran = site.run("dbb-handoff", "--dry-run")
    assert ran.out.splitlines()[:2] == ["send: c (new)", "send: a/b (new)"]
    assert (ran.code, tree(site.far_buffer), rows(site, "id")) == (0, {}, [])


def test_a_dry_run_says_first_what_would_be_recovered(site: Site) -> None:
    site.put_all(["a/b", "c"])
    make_pass(site)
    os.rename(site.holding / "c", site.buffer / "c")
    change(site, "UPDATE handoff_file SET status = 'DELIVERED' WHERE filename = 'c'")
    change(site, "UPDATE transfer_batch SET status = 'OPEN'")
    lines = site.run("dbb-handoff", "--dry-run").out.splitlines()
    assert lines[0].startswith("recover: ask the endpoint about batch 1, 2 files of ")
    assert lines[1:] == [
        "recover: move to holding c",
        f"in all 0 files, 0 bytes, to {site.far_buffer}",
    ]


def test_a_dry_run_passes_over_a_file_that_cannot_be_looked_at(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbbbatch.database import connect
    from dbbbatch.files.tree import Entry
    from dbbbatch.passes import runner
    from dbbbatch.passes.handoff.work import HandoffWork

    site.put_all(["bad/a", "bad/b", "c", "d"])
    make_pass(site)
    for name in ("bad/a", "bad/b", "c", "d"):
        os.rename(site.holding / name, site.put(name))
    change(site, "UPDATE handoff_file SET status = 'DELIVERED' WHERE filename IN ('a', 'c')")
    change(site, "UPDATE handoff_file SET status = 'FOUND' WHERE filename IN ('b', 'd')")

    def lstat(file: Entry, real: Any = Entry.lstat) -> os.stat_result:
        if file.relpath == "bad":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), file.path)
        return real(file)

    monkeypatch.setattr(Entry, "lstat", lstat)
    settings = site.settings()
    section = settings.handoff[site.name]
    lines = list(runner.plan_pass(HandoffWork(section), settings, section, runner.Options()))
    connect.disconnect()
    assert lines[0] == "recover: move to holding c"
    assert [line for line in lines if line.startswith("send: ")] == ["send: d"]


def test_lingering_wakes_for_a_new_file_only(site: Site) -> None:
    from dbbbatch.database import connect
    from dbbbatch.passes import runner
    from dbbbatch.passes.handoff.work import HandoffWork

    site.put("a")
    settings = site.settings()
    section = settings.handoff[site.name]
    handoff = HandoffWork(section)
    notices = runner.Notices(site.state, section.label)
    look = runner.PassContext(settings, section, runner.Options(), notices, None)
    connect.connect(settings.database)
    due = [handoff.due(look)]
    make_pass(site)
    connect.connect(settings.database)
    due.append(handoff.due(look))
    assert due == [True, False]


@pytest.mark.promise
def test_lists_of_killed_passes_are_removed_and_those_of_others_left(site: Site) -> None:
    lists = site.state / "lists"
    lists.mkdir()
    ours = attempt_prefix("summit", site.name)
    (lists / f"{ours}0123456789abcdef.list").touch()
    (lists / f"{attempt_prefix('summit', 'other')}0123456789abcdef.list").touch()
    assert make_pass(site) == 0
    assert [path.name.startswith(ours) for path in lists.iterdir()] == [False]


def test_old_lists_of_handoffs_that_are_no_more_are_swept(site: Site) -> None:
    lists = site.state / "lists"
    lists.mkdir()
    for name, age in {"old.list": 8 * 86400, "new.list": 0}.items():
        (lists / name).touch()
        when = time.time() - age
        os.utime(lists / name, (when, when))
    assert site.run("dbb-janitor").code == 0
    assert [path.name for path in lists.iterdir()] == ["new.list"]
