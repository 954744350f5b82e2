"""`dbb config check` finds by day what a pass would trip over at night."""

import dataclasses
import fcntl
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dbbbatch.config.load import Settings
from dbbbatch.files import lock
from dbbbatch.files.lock import Lock
from dbbbatch.files.tree import Entry
from dbbbatch.passes import check
from tests.support.scripts import TOP
from tests.support.site import Site
from tests.support.ssh import SshServer


@pytest.fixture
def backend() -> str:
    return "sqlite"


@pytest.fixture
def good(tmp_path: Path, database_url: str) -> Site:
    made = Site(tmp_path / "site", database_url).write()
    assert made.run("dbb", "init").code == 0
    return made


def problems(site: Site) -> list[str]:
    return [
        f"{checked.where}: {checked.problem}"
        for checked in check.check_everything(site.settings())
        if checked.problem
    ]


def test_a_good_site_has_no_problem(good: Site) -> None:
    assert problems(good) == []


def test_nothing_is_left_behind(good: Site) -> None:
    before = sorted(str(path) for path in good.root.rglob("*"))
    problems(good)
    assert sorted(str(path) for path in good.root.rglob("*")) == before


@pytest.mark.parametrize(
    ("directory", "key"),
    [
        ("buffer", "[handoff.latiss] buffer"),
        ("holding", "[handoff.latiss] holding"),
        ("quarantine", "[handoff.latiss] quarantine"),
        ("staging", "[handoff.latiss.endpoint]"),
        ("far_buffer", "[finder.latiss] source"),
        ("storage", "[finder.latiss] storage"),
        ("storage_quarantine", "[finder.latiss] quarantine"),
        ("state", "[site] state"),
    ],
)
def test_a_directory_that_is_not_there_is_named(good: Site, directory: str, key: str) -> None:
    shutil.rmtree(getattr(good, directory))
    found = [line for line in problems(good) if str(getattr(good, directory)) in line]
    assert any(line.startswith(key) for line in found)


def test_the_built_in_stream_is_tried_and_named(good: Site) -> None:
    good.by_stream = True
    good.write()
    before = sorted(str(path) for path in good.root.rglob("*"))
    (found,) = [
        one for one in check.check_everything(good.settings()) if one.where.endswith("] transfer")
    ]
    assert found.problem == ""
    assert found.note == "left out: the built-in stream sends the files"
    assert sorted(str(path) for path in good.root.rglob("*")) == before


def test_a_far_end_whose_tar_unpacks_nothing_is_told(
    good: Site, program: Callable[[str, str], Path]
) -> None:
    good.by_stream = True
    good.write()
    program("tar", "echo tar: cannot >&2; exit 2")
    (problem,) = problems(good)
    assert problem.startswith("[handoff.latiss.endpoint]")
    assert "tar" in problem


def test_nothing_is_left_where_there_was_no_lock_yet(good: Site) -> None:
    shutil.rmtree(good.state / "locks", ignore_errors=True)
    assert problems(good) == []
    assert not (good.state / "locks").exists()


def test_who_holds_a_lock_is_told_and_is_no_problem(good: Site) -> None:
    with Lock(good.state / "locks", "handoff.latiss"):
        found = [one.note for one in check.check_everything(good.settings()) if one.note]
        assert problems(good) == []
    (note,) = found
    assert note.startswith(f"handoff.latiss is at work: pid {os.getpid()} since ")


def test_a_lock_that_no_pass_holds_is_told(good: Site) -> None:
    (good.state / "locks").mkdir(exist_ok=True)
    path = good.state / "locks" / "handoff.latiss.lock"
    with path.open("w+b") as file:
        held = struct.pack("hhqqi", fcntl.F_RDLCK, 0, 0, 0, 0)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, held)
        (problem,) = problems(good)
    assert f"{path}: some program holds a lock for reading on it" in problem


def test_a_state_directory_in_which_no_lock_can_be_taken_is_told(
    good: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(37, "No locks available")

    # Only there: what starts programs uses the module, too.
    refusing = SimpleNamespace(**{**vars(fcntl), "fcntl": refuse})
    monkeypatch.setattr(lock, "fcntl", refusing)
    told = f"[site] state: {good.state}/locks: no lock can be taken there: No locks available"
    assert told in problems(good)


@pytest.mark.parametrize("name", ["state", "quarantine", "storage_quarantine"])
def test_a_full_disk_is_told_wherever_something_is_put(
    good: Site, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    full, free = str(getattr(good, name)), check.place.free_bytes
    monkeypatch.setattr(
        check.place, "free_bytes", lambda path: 1000 if path == full else free(path)
    )
    assert [line for line in problems(good) if f"{full}: 1.0 kB free, less than 16.8 MB" in line]


class TestPasswordFile:
    """The passwords of PostgreSQL, which need no server to be examined."""

    @pytest.fixture
    def remote(self, good: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
        monkeypatch.setenv("HOME", str(tmp_path))
        url = "postgresql://dbb@127.0.0.1:1/dbb"
        keys = {"url": url, "patience": 1, "password_file": tmp_path / "password"}
        (tmp_path / "password").write_text("secret")
        (tmp_path / "password").chmod(0o600)
        return good.write(database=keys)

    @pytest.mark.parametrize(
        ("mode", "advice"), [(0o600, ""), (0o640, ""), (0o644, "chmod o= "), (0o604, "chmod o= ")]
    )
    def test_others_must_not_read_it(self, remote: Site, mode: int, advice: str) -> None:
        path = remote.root.parent / "password"
        path.chmod(mode)
        found = [line for line in problems(remote) if "password_file" in line]
        assert [line.endswith(f"{advice}{path}") for line in found] == ([True] if advice else [])

    def test_one_that_is_not_there_is_told(self, remote: Site) -> None:
        (remote.root.parent / "password").unlink()
        assert any("password_file" in line for line in problems(remote))

    def test_the_file_of_libpq_is_for_its_owner_alone(self, remote: Site, tmp_path: Path) -> None:
        remote.write(database={"url": "postgresql://dbb@127.0.0.1:1/dbb", "patience": 1})
        (tmp_path / ".pgpass").write_text("*:*:*:*:secret")
        (tmp_path / ".pgpass").chmod(0o640)
        assert [line for line in problems(remote) if f"chmod go= {tmp_path}/.pgpass" in line]
        (tmp_path / ".pgpass").chmod(0o600)
        assert [line for line in problems(remote) if ".pgpass" in line] == []


def test_it_ends_with_a_total(good: Site) -> None:
    ran = good.run("dbb", "check")
    total = ran.out.splitlines()[-1]
    count = int(total.rpartition(" checks: ")[0].rpartition(" ")[2])
    assert total == f"{good.config}: {count} checks: {count} well"
    good.holding.rmdir()
    good.write(site={"name": "elsewhere"})
    ran = good.run("dbb", "check")
    assert ran.code == 78
    assert ran.out.splitlines()[-1].endswith(" well, 1 wrong")
    good.run("dbb-finder")
    good.write(site={"name": "renamed"})
    assert good.run("dbb", "check").out.splitlines()[-1].endswith(" well, 1 warning, 1 wrong")


def test_all_problems_are_found_at_once(good: Site) -> None:
    for directory in (good.buffer, good.holding, good.storage):
        shutil.rmtree(directory)
    found = "\n".join(problems(good))
    for directory in (good.buffer, good.holding, good.storage):
        assert str(directory) in found


def test_a_source_that_leads_into_storage_is_told(good: Site) -> None:
    good.far_buffer.rmdir()
    good.far_buffer.symlink_to(good.storage)
    (found,) = [line for line in problems(good) if "leads into" in line]
    assert found.startswith("[finder.latiss] source")


@pytest.mark.parametrize("renames", [True, False])
def test_it_tells_how_files_get_to_storage(
    good: Site, monkeypatch: pytest.MonkeyPatch, renames: bool
) -> None:
    if not renames:

        def moved(source: Entry, destination: Entry, real: Any = Entry.move_to) -> None:
            if source.tree.path == str(good.far_buffer) != destination.tree.path:
                raise OSError(18, "Invalid cross-device link")
            real(source, destination)

        monkeypatch.setattr(Entry, "move_to", moved)
    how = "renamed" if renames else "copied"
    told = [checked for checked in check.check_everything(good.settings()) if how in checked.what]
    assert [checked.where for checked in told] == ["[finder.latiss] source"]
    assert problems(good) == []


def test_a_file_in_the_place_of_a_directory_is_told(good: Site) -> None:
    good.holding.rmdir()
    good.holding.touch()
    assert f"[handoff.latiss] holding: {good.holding}: is no directory" in problems(good)


def test_a_directory_without_permission_is_told(
    good: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.access

    def access(path: Any, mode: int) -> bool:
        return str(path) != str(good.holding) and really(path, mode)

    monkeypatch.setattr(os, "access", access)
    assert any("may not write" in line for line in problems(good))


def test_storage_without_its_sentinel_looks_unmounted(good: Site) -> None:
    (good.storage / ".dbb-storage").unlink()
    assert any("not mounted" in line and "[finder.latiss]" in line for line in problems(good))


def test_a_missing_command_is_told(good: Site) -> None:
    good.write(endpoint={"transfer": "no-such-tool {batch} {dest}"})
    assert problems(good) == [
        "[handoff.latiss.endpoint] transfer: no-such-tool: no such command on PATH"
    ]


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ({"plugin": "command", "config": {"command": "no-such-tool {file}"}}, "no such program"),
        ({"plugin": "link", "config": {"root": "/no/such/directory"}}, "is not there"),
    ],
)
def test_a_plugin_that_cannot_start_is_told(good: Site, target: dict[str, Any], told: str) -> None:
    good.write(targets={"a": target})
    (problem,) = problems(good)
    assert problem.startswith("[target.a] plugin: ")
    assert told in problem


def test_a_missing_group_is_told(good: Site) -> None:
    good.write(finder={"group": "no-such-group"})
    assert problems(good) == ["[finder.latiss] group: there is no group 'no-such-group'"]


def test_a_database_without_tables_is_told(good: Site) -> None:
    Path(good.database_url.removeprefix("sqlite:///")).unlink()
    assert any("run `dbb init`" in line for line in problems(good))


def test_sqlite_on_a_network_file_system_is_refused(
    good: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check.mounts, "file_system", lambda path: "nfs4")
    found = problems(good)
    assert any("[database] url" in line and "nfs4" in line for line in found)
    assert any("[site] state" in line and "nfs4" in line for line in found)


def test_holding_on_another_file_system_is_told(
    good: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check.mounts, "same_file_system", lambda first, second: False)
    assert any("[handoff.latiss] holding" in line for line in problems(good))


def test_a_far_end_over_ssh_is_tried(
    tmp_path: Path, database_url: str, ssh_server: SshServer
) -> None:
    site = Site(tmp_path / "site", database_url, ssh_server).write()
    site.run("dbb", "init")
    assert problems(site) == []
    shutil.rmtree(site.far_buffer)
    assert any("not there" in line and "endpoint" in line for line in problems(site))


def test_a_far_end_that_does_not_answer_is_told(
    tmp_path: Path, database_url: str, own_ssh_server: SshServer
) -> None:
    site = Site(tmp_path / "site", database_url, own_ssh_server).write()
    site.run("dbb", "init")
    own_ssh_server.stop()
    assert [line for line in problems(site) if "endpoint cannot be reached" in line]
    assert site.run("dbb", "check").code == 75


def test_a_far_end_that_refuses_the_key_does_not_pass_by_itself(
    tmp_path: Path, database_url: str, own_ssh_server: SshServer
) -> None:
    site = Site(tmp_path / "site", database_url, own_ssh_server).write()
    site.run("dbb", "init")
    (own_ssh_server.directory / "authorized_keys").write_text("")
    assert [line for line in problems(site) if "Permission denied" in line]
    assert site.run("dbb", "check").code == 78


def test_a_confirm_that_answers_is_well(good: Site) -> None:
    command = f"{sys.executable} {TOP}/bin/dbb -c {good.config} confirm"
    good.write(endpoint={"confirm": command})
    assert problems(good) == []


def test_a_confirm_that_does_not_answer_is_told(good: Site) -> None:
    good.write(endpoint={"confirm": "true"})
    assert [line for line in problems(good) if "] confirm: " in line and "not confirm" in line]


def test_staging_and_buffer_on_two_file_systems_are_told(good: Site, tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no other file system here")
    far = other / f"dbb-test-{os.getpid()}"
    far.mkdir()
    try:
        good.write(endpoint={"staging": far})
        assert any("different file systems" in line for line in problems(good))
    finally:
        far.rmdir()


def test_a_far_end_without_the_transfer_program_is_told(good: Site) -> None:
    missing = "sh -c 'echo far: rsync: not found >&2; exit 127' {batch} {dest}"
    good.write(endpoint={"transfer": missing})
    assert problems(good) == [
        "[handoff.latiss.endpoint] transfer: sh: exit code 127: far: rsync: not found"
    ]
    assert list(good.staging.iterdir()) == []


def test_a_transfer_that_copies_nothing_is_told(good: Site) -> None:
    good.write(endpoint={"transfer": "true {batch} {dest}"})
    assert [line for line in problems(good) if "did not arrive whole" in line]


def test_a_transfer_of_a_list_of_files_is_tried(good: Site) -> None:
    good.write(endpoint={"transfer": "rsync -a -0 --files-from={files_from} {source_root} {dest}"})
    assert problems(good) == []


def test_a_transfer_that_names_the_buffer_itself_is_tried_too(good: Site) -> None:
    command = f"rsync -a -0 --files-from={{files_from}} {good.buffer} {{dest}}"
    good.write(endpoint={"transfer": command})
    assert problems(good) == []


def test_a_transfer_that_fails_for_what_lies_in_the_buffer_is_told(good: Site) -> None:
    tool = f"sh -c 'case $1 in {good.buffer}/*) exit 23;; esac; exec cp \"$@\"' sh"
    good.write(endpoint={"transfer": f"{tool} {{batch}} {{dest}}"})
    (problem,) = problems(good)
    assert problem == "[handoff.latiss.endpoint] transfer: sh: exit code 23"
    assert list(good.buffer.iterdir()) == list(good.staging.iterdir()) == []


def test_a_holding_area_to_which_no_rename_leads_is_told(
    good: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved(source: Entry, destination: Entry, real: Any = Entry.move_to) -> None:
        if source.tree.path == str(good.buffer) != destination.tree.path:
            raise OSError(18, "Invalid cross-device link")
        real(source, destination)

    monkeypatch.setattr(Entry, "move_to", moved)
    assert [line.split(": ")[0] for line in problems(good)] == [
        "[handoff.latiss] holding",
        "[handoff.latiss] quarantine",
    ]


def test_a_storage_where_no_permissions_can_be_set_is_told(
    good: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fchmod(descriptor: int, mode: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(good.storage)):
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", fchmod)
    (problem,) = problems(good)
    assert problem.startswith("[finder.latiss] file_mode: ")


@pytest.mark.parametrize(
    ("section", "where"),
    [("handoff", "[handoff.latiss] min_free"), ("finder", "[finder.latiss] min_free")],
)
def test_too_little_free_space_is_told(good: Site, section: str, where: str) -> None:
    good.write(**{section: {"min_free": "1 PB"}})  # type: ignore[arg-type]
    (problem,) = problems(good)
    assert problem.startswith(where)


@pytest.mark.parametrize("keys", [{"holding_free": "1 GB"}, {"confirm_targets": ["a"]}])
def test_a_purge_that_can_never_be_is_told(good: Site, keys: dict[str, Any]) -> None:
    good.write(handoff=keys)
    (problem,) = problems(good)
    assert problem.startswith(f"[handoff.latiss] {next(iter(keys))}: ")
    assert "[handoff.latiss.endpoint] confirm" in problem


def test_a_group_may_be_a_number(good: Site) -> None:
    good.write(finder={"group": str(os.getegid())})
    assert problems(good) == []


def test_what_is_wrong_in_the_file_does_not_hide_what_is_wrong_with_the_world(good: Site) -> None:
    good.write(finder={"group": "no-such-group"}, targets={"a": {"plugin": "nul"}})
    ran = good.run("dbb", "config", "check")
    assert ran.code == 78
    assert "[target.a] plugin: unknown plugin" in ran.err
    assert "[finder.latiss] group: there is no group 'no-such-group'" in ran.err


def test_a_site_that_the_database_does_not_know_is_remarked_upon(good: Site) -> None:
    assert good.run("dbb-finder").code == 0
    assert "[site] name" not in good.run("dbb", "config", "check").out
    good.write(site={"name": "renamed"})
    ran = good.run("dbb", "config", "check")
    assert (ran.code, ran.err) == (0, "")
    assert "[site] name: the database knows the sites summit and no renamed" in ran.out


def test_what_is_well_is_named_too(good: Site) -> None:
    checked = [dataclasses.astuple(one)[:4] for one in check.check_everything(good.settings())]
    assert ("[database] url", f"{good.database_url} answers", "", "") in checked


def remarks(settings: Settings) -> list[str]:
    return [
        f"{checked.where}: {checked.remark}"
        for checked in check.check_everything(settings)
        if checked.remark
    ]


class TestExposure:
    """Others can exchange what a pass works in."""

    def test_a_good_site_is_not_exposed(self, good: Site) -> None:
        assert remarks(good.settings()) == []

    @pytest.mark.parametrize("directory", ["buffer", "far_buffer"])
    def test_a_buffer_and_a_source_are_written_by_others(self, good: Site, directory: str) -> None:
        getattr(good, directory).chmod(0o777)
        assert remarks(good.settings()) == []

    @pytest.mark.parametrize(
        ("directory", "key"),
        [
            ("holding", "[handoff.latiss] holding"),
            ("quarantine", "[handoff.latiss] quarantine"),
            ("storage", "[finder.latiss] storage"),
            ("storage_quarantine", "[finder.latiss] quarantine"),
        ],
    )
    def test_what_is_kept_is_not(self, good: Site, directory: str, key: str) -> None:
        path = getattr(good, directory)
        path.chmod(0o777)
        (told,) = remarks(good.settings())
        assert told == (
            f"{key}: others can change, move or remove what is in {path}: {path} can be written by "
            f"everybody: chmod go-w {path}"
        )

    def test_a_directory_above_is_told_of_each_root(self, good: Site) -> None:
        settings = good.settings()
        good.root.chmod(0o777)
        told = remarks(settings)
        assert [line.partition(":")[0] for line in told] == [
            "[handoff.latiss] buffer",
            "[handoff.latiss] holding",
            "[handoff.latiss] quarantine",
            "[finder.latiss] source",
            "[finder.latiss] storage",
            "[finder.latiss] quarantine",
        ]
        assert f"in the place of {good.buffer}: {good.root} can be written by everybody" in told[0]

    def test_a_link_in_storage_is_told_with_what_to_do(self, good: Site) -> None:
        (good.storage / "night").symlink_to(good.root)
        (told,) = remarks(good.settings())
        assert f"{good.storage}/night is a link, which no pass follows: mount what" in told
