"""`dbb list`: the files behind each number of `dbb status`; and what status advises, pasted."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dbbbatch.cli.list import command
from dbbbatch.database import connect
from dbbbatch.report import verdict
from dbbbatch.report.listing import LISTS
from tests.cli.test_find import HOSTILE, paths
from tests.support.handing import change
from tests.support.scripts import TOP
from tests.support.site import Site

SOON = "2999-01-01 00:00:00.000000"


@pytest.fixture
def troubled(site: Site) -> Site:
    """Return a site with files in each trouble that a table knows."""
    site.put_all(["n/missing", "n/corrupt", "n/again", "n/gave-up", "n/invalid", "n/claimed"])
    for script in ("dbb-handoff", "dbb-finder", "dbb-ingester"):
        assert site.run(script).code == 0
    site.put_all(["n/waiting", "n/failing"])
    site.put("n/other", b"new", site.far_buffer)
    site.put("n/other", b"old", site.storage)
    assert site.run("dbb-finder").code == 1
    (site.storage / "n/missing").unlink()
    os.truncate(site.storage / "n/corrupt", 1)
    assert site.run("dbb-auditor", "--missing", "1").code == 1
    found = "INSERT INTO handoff_file (site, handoff, relpath, filename, size_bytes, mtime_ns,"
    found += " inode, status, discovered_at, error, next_try_at)"
    found += f" VALUES ('summit', 'latiss', 'n', ?, 7, 1, 1, 'FOUND', '{SOON}', ?, '{SOON}')"
    change(site, found, "waiting", None)
    change(site, found, "failing", "exit code 12")
    ingest = "UPDATE ingest_state SET status = ?, next_try_at = ?, message = 'why', claim = ?"
    ingest += " WHERE file_id = (SELECT id FROM file WHERE filename = ?)"
    change(site, ingest, "FAILURE", SOON, None, "again")
    change(site, ingest, "FAILURE", None, None, "gave-up")
    change(site, ingest, "INVALID", None, None, "invalid")
    change(site, ingest, "PENDING", None, 1, "claimed")
    change(site, "UPDATE handoff_file SET error = 'missing there' WHERE filename = 'again'")
    change(
        site,
        "INSERT INTO run (site, script, name, host, pid, process_started, version, started,"
        f" outcome) VALUES ('summit', 'janitor', 'latiss', 'h', 1, 0, '1', '{SOON}', 'ok')",
    )
    for verdict_of in ("FAILED", "MOVED", "GIVEN_UP", "AWAITED", "DUPLICATE"):
        change(
            site,
            "INSERT INTO finder_left (site, finder, relpath, filename, size_bytes, mtime_ns,"
            " inode, verdict, message, seen_at) VALUES ('summit', 'latiss', 'n', ?, 1, 1, 1, ?,"
            f" 'why', '{SOON}')",
            verdict_of.lower(),
            verdict_of,
        )
    return site


def listed(site: Site, *arguments: str) -> dict[str, list[str]]:
    ran = site.run("dbb", "list", *arguments, "--json")
    assert (ran.code, ran.err) == (0, "")
    return {
        one["what"]: [Path(file["path"]).name for file in one["files"]]
        for one in json.loads(ran.out)
        if one["count"]
    }


def test_each_kind_has_its_lists(troubled: Site) -> None:
    assert listed(troubled, "handoff.latiss") == {
        "failing": ["failing"],
        "not-confirmed": ["again"],
        "waiting": ["waiting"],
    }
    assert listed(troubled, "finder.latiss") == {
        "missing": ["missing"],
        "corrupt": ["corrupt"],
        "quarantined": ["other"],
        "gave-up": ["given_up"],
        "not-removed": ["moved"],
        "failing": ["failed"],
        "awaited": ["awaited"],
        "duplicates": ["duplicate"],
    }
    assert listed(troubled, "target.a") == {
        "gave-up": ["gave-up"],
        "invalid": ["invalid"],
        "failing": ["again"],
        "claimed": ["claimed"],
    }
    assert listed(troubled, str(troubled.storage)) == {
        "missing": ["missing"],
        "corrupt": ["corrupt"],
    }


def test_a_list_has_paths_reasons_and_times(troubled: Site) -> None:
    out = troubled.run("dbb", "list", "handoff.latiss", "--status", "FAILING").out
    assert out == (
        f"{troubled.buffer}/n/failing\n"
        "  failing (FOUND) since 2999-01-01 00:00:00 UTC; exit code 12; "
        "next try 2999-01-01 00:00:00 UTC\n"
    )
    out = troubled.run("dbb", "list", "finder.latiss", "--status", "missing").out
    assert out.startswith(f"{troubled.storage}/n/missing\n  missing (MISSING) since 20")
    assert "is not in storage" in out
    out = troubled.run("dbb", "list", "finder.latiss", "--status", "quarantined").out
    assert out.startswith(f"{troubled.storage_quarantine}/n/other\n")


def test_what_is_over_the_limit_is_counted(troubled: Site) -> None:
    change(troubled, "UPDATE handoff_file SET error = NULL WHERE filename = 'failing'")
    arguments = ("list", "handoff.latiss", "--status", "waiting", "--limit", "1")
    assert troubled.run("dbb", *arguments).out.endswith(
        "and 1 more that are waiting: give --limit\n"
    )


def test_a_list_or_component_that_does_not_exist_is_a_usage_error(site: Site) -> None:
    ran = site.run("dbb", "list", "handoff.latiss", "--status", "faling")
    assert (ran.code, "did you mean 'failing'?" in ran.err) == (64, True)
    for component in ("handoff.other", "janitor.latiss", "x"):
        assert site.run("dbb", "list", component).code == 64


def test_a_component_without_such_files_is_said_to_have_none(site: Site) -> None:
    ran = site.run("dbb", "list", "handoff.latiss")
    assert (ran.code, ran.out) == (0, "handoff.latiss: no such files\n")


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
def test_what_status_advises_works_when_it_is_pasted(troubled: Site, tmp_path: Path) -> None:
    troubles = verdict.examine(troubled.settings()).troubles
    connect.disconnect()
    of_files = [trouble for trouble in troubles if trouble.files]
    assert {trouble.what for trouble in of_files} >= {
        *("failing", "gave up", "invalid", "missing", "corrupt", "quarantined", "not confirmed"),
        "stored, original not removed",
    }
    for trouble in of_files:
        ran = paste(trouble.listing, tmp_path)
        assert (ran.returncode, ran.stderr) == (0, b""), trouble
        assert ran.stdout.count(b"\n") >= trouble.files, trouble
    for trouble in of_files:
        told = trouble.advice.removeprefix("at the endpoint: ")
        for line in re.split(r"(?:, or|, then|gone): ", told):
            if line.startswith("dbb"):
                line = line.replace("dbb history", f"dbb -c {troubled.config} history")
                ran = paste(line, tmp_path)
                assert ran.returncode in (0, 1), (line, ran)


def paste(line: str, directory: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a line as somebody does who is elsewhere and has set nothing."""
    program, *arguments = shlex.split(line)
    return subprocess.run(
        [sys.executable, TOP / "bin" / program, *arguments],
        cwd=directory,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        check=False,
    )


@pytest.mark.promise
def test_hostile_names_can_be_pasted(site: Site) -> None:
    for name in HOSTILE:
        site.put(b"night/" + name, b"new", site.far_buffer)
        site.put(b"night/" + name, b"old", site.storage)
    assert site.run("dbb-finder").code == 1
    out = site.run("dbb", "list", "finder.latiss", "--status", "quarantined").out
    assert sorted(paths(out)) == sorted(
        os.fsencode(site.storage_quarantine) + b"/night/" + name for name in HOSTILE
    )


def test_every_list_is_in_the_help_of_the_command() -> None:
    text = " ".join((command.help or "").split())
    for names in LISTS.values():
        assert ", ".join(names) in text


def test_of_what_no_pass_has_recorded_the_number_is_shown(site: Site) -> None:
    site.put_all(["n/a", "n/b"])
    site.put("n/c", where=site.far_buffer)
    said = "that no pass has recorded, and that no list has\n"
    for label, waits in (
        ("handoff.latiss", "2 files wait in its buffer"),
        ("finder.latiss", "1 file waits in its source"),
    ):
        assert site.run("dbb", "list", label) == (0, f"{waits} {said}", "")
        failing = site.run("dbb", "list", label, "--status", "failing")
        assert failing == (0, f"{label}: no such files\n", "")
    ran = site.run("dbb", "list", "handoff.latiss", "--status", "waiting", "--json")
    (waiting,) = json.loads(ran.out)
    assert (waiting["count"], waiting["unrecorded"]["files"]) == (0, 2)


def test_what_waits_for_a_wrong_section_is_not_called_none(site: Site) -> None:
    assert site.run("dbb-handoff").code == site.run("dbb-finder").code == 0
    site.write(handoff={"max_atempts": 3}, finder={"max_atempts": 3})
    for label in ("handoff.latiss", "finder.latiss"):
        ran = site.run("dbb", "list", label)
        assert (ran.code, ran.out.endswith("and no pass has recorded, is not known\n")) == (0, True)
    ran = site.run("dbb", "status")
    assert "no file waits" not in ran.out
    assert "whether files wait is not known" in " ".join(ran.out.split())
    assert re.search(r"handoff.latiss +deliver +not known", ran.out)
    assert "backlog_files=U" in site.run("dbb", "status", "--check").out
