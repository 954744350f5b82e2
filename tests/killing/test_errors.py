"""A pass in which any system call on its directories fails says so, and loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.killing import (
    supervisor,
    test_auditor,
    test_by_hand,
    test_finder,
    test_handoff,
    test_ingester,
    test_janitor,
)
from tests.killing.failing import CODES, fail_each
from tests.support.database import Databases
from tests.support.site import Site

pytestmark = pytest.mark.promise

#: A file that an error was charged to is due again at once.
AGAIN: dict[str, Any] = {"retry_wait": 0, "max_attempts": 100}

#: What a command by hand may say, too: this file cannot be, see to it.
BY_HAND = (*CODES, 64)

Look = Callable[[Site], Mapping[str, Any]]


@pytest.fixture(autouse=True)
def _supervisor() -> None:
    if why := supervisor.unavailable():
        pytest.skip(why)


def roots(site: Site) -> list[str]:
    """Return what is configured, and the files of an SQLite database."""
    directories = [
        *(site.buffer, site.holding, site.quarantine, site.far_buffer, site.staging),
        *(site.storage, site.storage_quarantine, site.state),
    ]
    database = site.database_url.removeprefix("sqlite:///")
    return [*map(str, directories), database, f"{database}-wal", f"{database}-shm"]


def forgiving(look: Look) -> Look:
    """Leave out which of two files is the copy, and the reasons beside files.

    It is the one that was stored later; and the table has the reason, too.
    """

    def looked(site: Site) -> dict[str, Any]:
        return {
            about: {key: value for key, value in row.items() if not key.startswith("copied_")}
            if isinstance(row, Mapping)
            else row
            for about, row in look(site).items()
            if not about.endswith(".reason")
        }

    return looked


def however_often(look: Look) -> Look:
    """Let equal events of a file count once, and leave out those that take one back.

    Each attempt is one, also that which failed.
    """

    def looked(site: Site) -> dict[str, Any]:
        seen = {}
        for about, row in look(site).items():
            if not about.startswith("ingest_event "):
                seen[about] = row
            elif row["status"] != "RERUN":
                seen[f"{about.rpartition(' ')[0]} {row['status']}"] = row
        return seen

    return looked


@pytest.mark.parametrize("alternative", ["none", "delete", "quarantine"])
@pytest.mark.parametrize("apart", [False, True], ids=["one_file_system", "two"])
def test_a_finder(databases: Databases, apart: bool, alternative: str) -> None:
    make = test_finder.sites(databases, "sqlite", apart, alternative=alternative, **AGAIN)
    look = forgiving(test_finder.look)
    fail_each(make, test_finder.command, look, roots, exit_codes=(0, 1), every=997)


def test_a_finder_by_rsyncs_logs(databases: Databases) -> None:
    def make(directory: Path) -> AbstractContextManager[Site]:
        return test_finder.logging_site(databases, "sqlite", directory, **AGAIN)

    look = forgiving(test_finder.look)
    fail_each(make, test_finder.command, look, roots, every=599)


def test_a_handoff(databases: Databases) -> None:
    make = test_handoff.sites(databases, "sqlite", **AGAIN)
    fail_each(make, test_handoff.command, forgiving(test_handoff.look), roots, every=599)


def test_a_handoff_that_gives_up_a_file(databases: Databases) -> None:
    tool = 'sh -c \'for f; do case $f in *"image 2"*) exit 9;; esac; done; cp -p -- "$@"\' sh'
    endpoint = {"transfer": f"{tool} {{batch}} {{dest}}"}
    keys = AGAIN | {"max_attempts": 1}
    make = test_handoff.sites(databases, "sqlite", endpoint=endpoint, **keys)
    codes = {"exit_codes": (0, 1)}
    fail_each(make, test_handoff.command, forgiving(test_handoff.look), roots, every=997, **codes)


def test_an_ingester(databases: Databases) -> None:
    target = {"plugin": "null", **AGAIN}
    make = test_ingester.sites(databases, "sqlite", target)
    command, look = test_ingester.command, test_ingester.look
    fail_each(make, command, look, roots, exit_codes=test_ingester.CODES, every=61)


def test_a_janitor(databases: Databases) -> None:
    make = test_janitor.sites(databases, "sqlite")
    fail_each(make, test_janitor.command, test_janitor.look, roots, every=151)


def test_an_auditor(databases: Databases) -> None:
    make = test_auditor.sites(databases, "sqlite", test_auditor.with_storage)
    audit = test_auditor.command("dbb-auditor", "--adopt", "--share", "1", "--missing", "1")
    look = forgiving(test_auditor.look)
    fail_each(make, audit, look, roots, exit_codes=(1,), every=997)


def test_a_backfill(databases: Databases) -> None:
    def make(directory: Path) -> AbstractContextManager[Site]:
        return test_finder.logging_site(databases, "sqlite", directory)

    backfill = test_by_hand.dbb("backfill", "finder.latiss", "--jobs", "1")
    fail_each(make, backfill, forgiving(test_finder.look), roots, every=599)


@pytest.mark.parametrize("section", ["finder.latiss", "handoff.latiss"])
def test_a_rebuild(databases: Databases, section: str) -> None:
    make = test_auditor.sites(databases, "sqlite", test_auditor.without_rows)
    rebuild = test_auditor.command("dbb", "rebuild", section, "--jobs", "1")
    fail_each(make, rebuild, forgiving(test_auditor.look), roots, every=599)


@pytest.mark.parametrize("apart", [False, True], ids=["one_file_system", "two"])
@pytest.mark.parametrize(
    ("label", "fill"),
    [
        ("finder.latiss", test_by_hand.of_a_finder),
        ("handoff.latiss", test_by_hand.of_a_handoff),
    ],
)
def test_a_release(
    databases: Databases, label: str, fill: Callable[[Site], list[str]], apart: bool
) -> None:
    make = test_by_hand.sites(databases, "sqlite", fill, apart and label.startswith("finder"))
    release = test_by_hand.release(label)
    fail_each(make, release, forgiving(test_by_hand.look), roots, codes=BY_HAND, every=599)


def test_a_resending(databases: Databases) -> None:
    make = test_by_hand.sites(databases, "sqlite", test_by_hand.of_holding)
    resend = test_by_hand.dbb("resend", "handoff.latiss", *test_by_hand.ASIDE)
    codes = {"exit_codes": (0, 64), "codes": BY_HAND}
    fail_each(make, resend, forgiving(test_by_hand.look), roots, every=599, **codes)


def test_a_forgetting(databases: Databases) -> None:
    make = test_by_hand.sites(databases, "sqlite", test_by_hand.of_storage)
    files = test_by_hand.ASIDE
    forget = test_by_hand.dbb("forget", "finder.latiss", *files, "--remove", "--yes")
    look = however_often(test_by_hand.look)
    fail_each(make, forget, look, roots, codes=BY_HAND, every=599)
