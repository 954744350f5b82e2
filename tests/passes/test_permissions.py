"""Set-id bits and write permissions of others: they come to no endpoint and to no storage."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.areas.endpoint import session, transfer_command
from tests.support.handing import make_pass
from tests.support.site import Site, tree

pytestmark = pytest.mark.promise

#: What a stranger may give a file, and what of it goes along.
MODES = {
    0o6777: 0o755,
    0o4755: 0o755,
    0o2755: 0o755,
    0o1644: 0o644,
    0o666: 0o644,
    0o660: 0o640,
    0o602: 0o600,
    0o444: 0o444,
}

COMMANDS = {
    "cp": "cp -p -- {batch} {dest}",
    "rsync": "rsync -rtp --from0 --files-from={files_from} {source_root}/ {dest_root}",
    "one by one": "cp -p -- {file} {dest}",
}


def modes(directory: Path) -> dict[str, int]:
    return {rel: stat.S_IMODE((directory / rel).stat().st_mode) for rel in tree(directory)}


def put_all(site: Site, where: Path) -> dict[str, int]:
    """Write a file of each mode, named for it; give what of it goes along, by name."""
    for mode in MODES:
        site.put(f"night/{mode:o}", b"#!/bin/sh\n%o" % mode, where).chmod(mode)
    return {f"night/{mode:o}": kept for mode, kept in MODES.items()}


def read_only(kept: dict[str, int]) -> dict[str, int]:
    """Return the modes of files that are complete: at the endpoint nobody writes to them."""
    return {rel: mode & 0o555 for rel, mode in kept.items()}


#: How file systems without permissions answer.
CHMODS = {"refuses": "echo chmod: Operation not permitted >&2; exit 1", "pretends": "exit 0"}


@pytest.mark.parametrize("backend", ["sqlite"])
class TestAtTheEndpoint:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_nothing_arrives_set_id_or_writable(self, site: Site, command: str) -> None:
        site.write(endpoint={"transfer": COMMANDS[command]}, handoff={"min_free": 0})
        wanted = read_only(put_all(site, site.buffer))
        assert site.run("dbb-handoff").code == 0
        assert modes(site.far_buffer) == wanted

    def test_nor_over_a_line(self, ssh_site: Site) -> None:
        wanted = read_only(put_all(ssh_site, ssh_site.buffer))
        assert ssh_site.run("dbb-handoff").code == 0
        assert modes(ssh_site.far_buffer) == wanted

    @pytest.mark.parametrize("when", ["before it is verified", "before it is placed"])
    def test_nor_where_a_batch_was_cut_off(
        self, site: Site, monkeypatch: pytest.MonkeyPatch, when: str
    ) -> None:
        sent = []
        run = transfer_command.run.run

        def count(argv: Any, **more: Any) -> Any:
            sent.append(argv)
            return run(argv, **more)

        def away(*arguments: Any, **more: Any) -> Any:
            raise session.Away("the endpoint cannot be reached")

        wanted = read_only(put_all(site, site.buffer))
        monkeypatch.setattr(transfer_command.run, "run", count)
        with monkeypatch.context() as patched:
            what = "verify" if when == "before it is verified" else "place_files"
            patched.setattr(session.Session, what, away)
            assert make_pass(site) == 75
        assert make_pass(site) == 0
        assert modes(site.far_buffer) == wanted
        assert len(sent) == 1  # what had arrived was not sent again

    @pytest.mark.parametrize("mode", [0o4755, 0o664, 0o646])
    @pytest.mark.parametrize("chmod", sorted(CHMODS))
    def test_nothing_goes_further_where_the_bits_cannot_be_taken_away(
        self, site: Site, program: Any, chmod: str, mode: int
    ) -> None:
        program("chmod", CHMODS[chmod])
        site.put("a").chmod(mode)
        site.put("b").chmod(0o644)
        ran = site.run("dbb-handoff")
        assert ran.code == 75
        assert "or write permission of group or others, cannot be taken away" in ran.err
        assert tree(site.far_buffer) == {}
        assert sorted(tree(site.buffer)) == ["a", "b"]

    @pytest.mark.parametrize("chmod", sorted(CHMODS))
    def test_that_its_own_account_may_still_write_is_borne(
        self, site: Site, program: Any, chmod: str
    ) -> None:
        program("chmod", CHMODS[chmod])
        site.put("a").chmod(0o644)
        assert site.run("dbb-handoff").code == 0
        assert modes(site.far_buffer) == {"a": 0o644}


@pytest.mark.parametrize("backend", ["sqlite"])
class TestInStorage:
    @pytest.fixture(params=["one file system", "two file systems"])
    def either(self, request: pytest.FixtureRequest, site: Site) -> Site:
        if request.param == "two file systems":
            site.far_buffer = request.getfixturevalue("other_file_system")
        return site

    def test_files_may_only_be_read_unless_the_configuration_says_otherwise(
        self, either: Site
    ) -> None:
        either.write()
        wanted = put_all(either, either.far_buffer)
        assert either.run("dbb-finder").code == 0
        assert modes(either.storage) == dict.fromkeys(wanted, 0o444)

    def test_files_that_keep_their_permissions_do_not_keep_these(self, either: Site) -> None:
        either.write(finder={"file_mode": "", "min_free": 0})
        wanted = put_all(either, either.far_buffer)
        assert either.run("dbb-finder").code == 0
        assert modes(either.storage) == wanted

    @pytest.mark.parametrize("command", [["dbb", "backfill", "finder.latiss"], ["dbb-auditor"]])
    def test_nor_do_files_that_are_recorded_where_they_are(
        self, site: Site, command: list[str]
    ) -> None:
        wanted = put_all(site, site.storage)
        more = ["--adopt"] if command[0] == "dbb-auditor" else []
        site.run(*command, *more)
        assert modes(site.storage) == wanted

    def test_nor_do_files_that_a_log_of_rsync_names(self, site: Site) -> None:
        logs = site.root / "logs"
        logs.mkdir()
        wanted = put_all(site, site.buffer)
        site.write(
            finder={
                "source": logs,
                "search": "rsync-logs",
                "standard": "none",
                "delay": 0,
            }
        )
        day = logs / time.strftime("%Y%m%d", time.gmtime())
        day.mkdir()
        log = f"--log-file={day}/rsync-1.log"
        subprocess.run(["rsync", "-rtpi", log, f"{site.buffer}/", site.storage], check=True)
        assert site.run("dbb-finder").code == 0
        assert modes(site.storage) == wanted

    def test_nor_does_what_comes_back_from_quarantine(self, site: Site) -> None:
        site.write(finder={"file_mode": "", "min_free": 0})
        site.put("a", b"one", site.storage)
        site.put("a", b"two", site.far_buffer).chmod(0o6777)
        assert site.run("dbb-finder").code == 1
        ran = site.run(
            "dbb", "quarantine", "release", "finder.latiss", "--match", "*", "--as-new", "b"
        )
        assert ran.code == 0, ran.err
        assert site.run("dbb-finder").code == 0
        assert modes(site.storage)["b"] == 0o755

    def test_capability_of_a_program_does_not_come_along(self, site: Site) -> None:
        site.write(finder={"file_mode": ""})
        path = site.put("a", b"program", site.far_buffer)
        path.chmod(0o755)
        capability = bytes.fromhex("0100000200200000000000000000000000000000")
        try:
            os.setxattr(path, "security.capability", capability)
        except OSError as error:
            pytest.skip(f"no capabilities of files here: {error}")
        assert site.run("dbb-finder").code == 0
        assert os.listxattr(site.storage / "a") == []

    @pytest.mark.parametrize("mode", ["6755", "4444", "1444"])
    def test_configuration_cannot_ask_for_set_id_bits(self, site: Site, mode: str) -> None:
        ran = site.write(finder={"file_mode": mode}).run("dbb-finder")
        assert ran.code == 78
        assert f"write 0{mode[1:]}" in ran.err
