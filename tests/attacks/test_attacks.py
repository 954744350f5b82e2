"""Passes whose directories somebody exchanges for links meanwhile: nothing outside is touched.

And nothing of ours is lost or doubled. How often the attacker meets a certain step is a matter of
chance; what is checked holds however that went. `DBB_ATTACK_SECONDS` lets each test go on for so
long, always with a new site.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.attacks.arena import PRIVATE, Arena
from tests.support.database import Databases
from tests.support.handing import REFUSING, receiving
from tests.support.scripts import TOP
from tests.support.site import Site

pytestmark = pytest.mark.promise

#: Seconds for which new sites are attacked.
SECONDS = float(os.environ.get("DBB_ATTACK_SECONDS") or 2)

#: Passes while somebody attacks, and afterwards.
PASSES, AFTERWARDS = 2, 2

#: What every site has: a file that could not be moved is due again at once.
HANDOFF = {"min_free": 0, "retry_wait": 0, "purge_after": 0, "max_attempts": 100}
FINDER = {"min_free": 0, "retry_wait": 0, "audit_rate": 0, "max_attempts": 100}

Bout = Callable[[Arena], None]


@pytest.fixture
def fight(databases: Databases, tmp_path: Path) -> Callable[[Bout], None]:
    """Return a function that attacks one site after the other until the time is over."""

    def attack(bout: Bout) -> None:
        end = time.monotonic() + SECONDS
        number = 0
        while not number or time.monotonic() < end:
            directory = tmp_path / str(number)
            directory.mkdir()
            with databases.fresh("sqlite", directory) as url:
                site = Site(directory / "site", url)
                site.write(handoff=HANDOFF, finder=FINDER)
                bout(Arena(site))
            shutil.rmtree(directory)
            number += 1

    return attack


def under_attack(arena: Arena, script: str, *arguments: str) -> None:
    """Make passes while somebody attacks, and some afterwards."""
    with arena.attacked():
        for _ in range(PASSES):
            arena.run(script, *arguments)
    for _ in range(AFTERWARDS):
        arena.run(script, *arguments)


@pytest.mark.parametrize("alternative", ["none", "delete", "quarantine"])
def test_a_finder(fight: Callable[[Bout], None], alternative: str) -> None:
    """Storage has some of the files already, and other contents of some."""

    def bout(arena: Arena) -> None:
        site = arena.site
        site.write(handoff=HANDOFF, finder={**FINDER, "alternative": alternative})
        again = stored_before(arena)
        arena.threaten(site.far_buffer, files=True)
        arena.threaten(site.storage, site.storage_quarantine)
        arena.put(site.far_buffer)
        under_attack(arena, "dbb-finder")
        arena.check(
            site.far_buffer, site.storage, site.storage_quarantine, twice=again, copied=True
        )

    fight(bout)


def stored_before(arena: Arena) -> list[str]:
    """Let storage have some of the files, and others of the names of some; return the former."""
    again, other = [list(arena.files)[number::7] for number in (0, 1)]
    for rel in again:
        arena.site.put(rel, arena.files[rel], arena.site.far_buffer)
    for rel in other:
        arena.site.put(rel, b"another content of " + rel.encode(), arena.site.far_buffer)
    arena.run("dbb-finder")
    return again


def test_a_finder_across_file_systems(fight: Callable[[Bout], None]) -> None:
    def bout(arena: Arena) -> None:
        site = arena.site
        with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
            source = site.far_buffer = Path(elsewhere, "source")
            source.mkdir()
            # An original whose name another file has while it is to go is a duplicate later.
            site.write(handoff=HANDOFF, finder={**FINDER, "alternative": "delete"})
            arena.threaten(source, files=True)
            arena.threaten(site.storage)
            arena.put(source)
            under_attack(arena, "dbb-finder")
            arena.check(source, site.storage, site.storage_quarantine, copied=True)

    fight(bout)


def test_a_finder_that_reads_logs(fight: Callable[[Bout], None]) -> None:
    """Some are read again and again, as files that a log names are not in storage."""

    def bout(arena: Arena) -> None:
        site = arena.site
        keys = {"search": "rsync-logs", "standard": "none", "delay": 0}
        site.write(handoff=HANDOFF, finder={**FINDER, **keys})
        arena.threaten(site.storage)
        arena.put(site.storage)
        lines = "".join(f"<f+++++++++ {rel}\n" for rel in arena.files)
        site.put(f"{datetime.now(UTC):%Y%m%d}/rsync.log", lines.encode(), site.far_buffer)
        under_attack(arena, "dbb-finder")
        arena.check(site.storage)

    fight(bout)


@pytest.mark.parametrize("transfer", ["command", "stream"])
def test_a_handoff(fight: Callable[[Bout], None], transfer: str) -> None:
    """Each file is on this side once, and the endpoint has what is held."""

    def bout(arena: Arena) -> None:
        site = arena.site
        sent = site.root / "sent"
        sent.touch()
        if transfer == "stream":
            listening = f"sh -c 'tee -a {sent} | sh -c \"$1\"' sh {{command}}"
            endpoint = {"remote": listening, "transfer": None}
            site.write(handoff=HANDOFF, endpoint=endpoint, finder=FINDER)
        arena.threaten(site.buffer, files=True)
        arena.threaten(site.holding)
        arena.put(site.buffer)
        under_attack(arena, "dbb-handoff")
        arena.check(site.buffer, site.holding, site.quarantine)
        arena.check_delivered()
        assert (b"ours" in sent.read_bytes()) == (transfer == "stream")
        assert PRIVATE not in sent.read_bytes()

    fight(bout)


def test_a_handoff_that_gives_up(fight: Callable[[Bout], None]) -> None:
    def bout(arena: Arena) -> None:
        site = arena.site
        site.write(handoff={**HANDOFF, "max_attempts": 1}, endpoint=REFUSING, finder=FINDER)
        arena.threaten(site.buffer, files=True)
        arena.threaten(site.quarantine)
        arena.put(site.buffer)
        under_attack(arena, "dbb-handoff")
        arena.check(site.buffer, site.holding, site.quarantine)

    fight(bout)


def test_a_far_end_that_receives(fight: Callable[[Bout], None]) -> None:
    """The endpoint is attacked, where files arrive and where they are placed."""

    def bout(arena: Arena) -> None:
        site = arena.site
        endpoint = {"remote": receiving(site.root / "archive"), "transfer": None}
        site.write(handoff=HANDOFF, endpoint=endpoint, finder=FINDER)
        arena.threaten(site.far_buffer)
        arena.put(site.buffer)
        under_attack(arena, "dbb-handoff")
        arena.check(site.buffer, site.holding, site.quarantine)
        arena.check(site.far_buffer)

    fight(bout)


def test_a_release_from_the_quarantine_of_a_handoff(fight: Callable[[Bout], None]) -> None:
    def bout(arena: Arena) -> None:
        site = arena.site
        site.write(handoff={**HANDOFF, "max_attempts": 1}, endpoint=REFUSING, finder=FINDER)
        arena.put(site.buffer)
        arena.run("dbb-handoff")
        arena.threaten(site.buffer)
        arena.threaten(site.quarantine, files=True)
        under_attack(arena, "dbb", "quarantine", "release", "handoff.latiss", "--match", "*")
        arena.check(site.buffer, site.holding, site.quarantine)

    fight(bout)


@pytest.mark.parametrize("apart", [False, True])
def test_a_release_from_the_quarantine_of_a_finder(
    fight: Callable[[Bout], None], apart: bool
) -> None:
    def bout(arena: Arena) -> None:
        site = arena.site
        with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
            if apart:
                site.far_buffer = Path(elsewhere, "source")
                site.far_buffer.mkdir()
            site.write(handoff=HANDOFF, finder=FINDER)
            for rel in arena.files:
                site.put(rel, b"another content of " + rel.encode(), site.far_buffer)
            arena.run("dbb-finder")
            arena.put(site.far_buffer)
            arena.run("dbb-finder")
            arena.threaten(site.far_buffer)
            arena.threaten(site.storage_quarantine, files=True)
            under_attack(arena, "dbb", "quarantine", "release", "finder.latiss", "--match", "*")
            arena.check(site.far_buffer, site.storage, site.storage_quarantine)

    fight(bout)


def test_held_files_that_are_sent_again(fight: Callable[[Bout], None]) -> None:
    def bout(arena: Arena) -> None:
        site = arena.site
        arena.put(site.buffer)
        arena.run("dbb-handoff")
        arena.threaten(site.buffer)
        arena.threaten(site.holding, files=True)
        under_attack(arena, "dbb", "resend", "handoff.latiss", "**")
        arena.check(site.buffer, site.holding)

    fight(bout)


def test_a_janitor(fight: Callable[[Bout], None]) -> None:
    """Some of the held files are stored at the endpoint, and no other is purged."""

    def bout(arena: Arena) -> None:
        site = arena.site
        confirm = shlex.join([sys.executable, f"{TOP}/bin/dbb", "-c", str(site.config), "confirm"])
        site.write(
            handoff=HANDOFF,
            endpoint={"confirm": confirm},
            finder={**FINDER, "exclude": [r"[01]\.fits$"]},
        )
        arena.put(site.buffer)
        arena.run("dbb-handoff")
        arena.run("dbb-finder")
        arena.threaten(site.holding, files=True)
        under_attack(arena, "dbb-janitor")
        arena.check(site.holding, gone=[rel for rel in arena.files if rel[-6] not in "01"])

    fight(bout)


def test_files_that_are_forgotten(fight: Callable[[Bout], None]) -> None:
    def bout(arena: Arena) -> None:
        site = arena.site
        arena.put(site.far_buffer)
        arena.run("dbb-finder")
        arena.threaten(site.storage, links=True)
        under_attack(arena, "dbb", "forget", "finder.latiss", "--remove", "--yes", *arena.files)
        arena.check(site.storage, gone=list(arena.files))

    fight(bout)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["dbb-auditor", "--adopt", "--share", "1"], id="auditor"),
        pytest.param(["dbb", "backfill", "finder.latiss"], id="backfill"),
        pytest.param(["dbb", "rebuild", "finder.latiss"], id="rebuild"),
    ],
)
def test_what_records_what_is_in_storage(fight: Callable[[Bout], None], command: list[str]) -> None:
    """Some of it is recorded already."""

    def bout(arena: Arena) -> None:
        site = arena.site
        some = list(arena.files)[::3]
        for rel in some:
            site.put(rel, arena.files[rel], site.far_buffer)
        arena.run("dbb-finder")
        arena.threaten(site.storage, site.storage_quarantine)
        for rel in set(arena.files) - set(some):
            site.put(rel, arena.files[rel], site.storage)
        under_attack(arena, *command)
        arena.check(site.storage)

    fight(bout)


def test_a_rebuild_of_what_is_held(fight: Callable[[Bout], None]) -> None:
    def bout(arena: Arena) -> None:
        site = arena.site
        arena.threaten(site.holding, site.quarantine)
        arena.put(site.holding)
        under_attack(arena, "dbb", "rebuild", "handoff.latiss")
        arena.check(site.holding)

    fight(bout)


@pytest.mark.parametrize("how", ["hard", "symbolic", "copy"])
def test_a_tree_of_links(fight: Callable[[Bout], None], how: str) -> None:
    def bout(arena: Arena) -> None:
        site = arena.site
        root = site.root / "tree"
        root.mkdir()
        target = {"plugin": "link", "config": {"root": root, "how": how}, "max_attempts": 100}
        site.write(handoff=HANDOFF, finder=FINDER, targets={"a": {**target, "retry_wait": 0}})
        arena.run("dbb-ingester")
        arena.put(site.far_buffer)
        arena.run("dbb-finder")
        arena.threaten(site.storage, root)
        under_attack(arena, "dbb-ingester")
        arena.check(site.storage)
        assert {rel: (root / rel).read_bytes() for rel in arena.files} == arena.files

    fight(bout)
