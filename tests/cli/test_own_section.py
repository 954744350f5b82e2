"""A script needs its own section only; what a parent process left does it no harm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.scripts import TOP
from tests.support.site import Site, tree

pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@pytest.fixture
def broken(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return a site with a sound target and one whose plugin cannot be imported."""
    package = tmp_path / "package"
    information = package / "broken-1.0.dist-info"
    information.mkdir(parents=True)
    (package / "broken.py").write_text("raise OSError('libfoo.so: no such file')\n")
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[dbbbatch.targets]\nbroken = broken:Broken\n")
    monkeypatch.setenv("PYTHONPATH", str(package))
    return site.write(targets={"a": {}, "b": {"plugin": "broken"}})


@pytest.mark.promise
@pytest.mark.parametrize(
    "command",
    [
        "dbb-handoff",
        "dbb-finder",
        "dbb-ingester a",
        "dbb-janitor",
        "dbb-auditor",
        "dbb status",
        "dbb init",
        "dbb pause target.b",
        "dbb resume target.b",
        "dbb pause",
        "dbb pause target",
        "dbb ignore handoff.latiss --match x",
        "dbb quarantine release handoff.latiss --match x",
        "dbb backfill finder.latiss --dry-run",
        "dbb rebuild finder.latiss",
        "dbb backup {root}/backup",
        "dbb config sample",
        "dbb quarantine list",
        "dbb target list",
    ],
)
def test_a_plugin_that_cannot_be_imported_stops_no_other_script(broken: Site, command: str) -> None:
    ran = broken.run(*command.format(root=broken.root).split())
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize("command", ["dbb-ingester b", "dbb check"])
def test_who_needs_it_is_told(broken: Site, command: str) -> None:
    ran = broken.run(*command.split())
    assert ran.code == 78
    assert "[target.b] plugin: plugin 'broken' (broken:Broken) cannot be imported" in ran.err


def test_what_failed_may_be_retried_without_the_plugin(broken: Site) -> None:
    broken.write(targets={"a": {}, "b": {}})
    broken.put("x")
    for script in ("dbb-handoff", "dbb-finder", "dbb-ingester --all"):
        assert broken.run(*script.split()).code == 0
    broken.write(targets={"a": {}, "b": {"plugin": "broken"}})
    ran = broken.run("dbb", "retry", "target.b", "--status", "SUCCESS")
    assert (ran.code, ran.out) == (0, "1 file of target.b is due again\n")
    assert broken.run("dbb", "history", "x").code == 0


def test_history_says_whose_directories_it_cannot_know(broken: Site) -> None:
    broken.put("x")
    assert broken.run("dbb-handoff").code == broken.run("dbb-finder").code == 0
    assert broken.run("dbb", "history", str(broken.storage / "x")).code == 0
    broken.write(finder={"batch_files": 0}, targets={})
    ran = broken.run("dbb", "history", str(broken.storage / "y"))
    assert ran.code == 64
    assert "finder.latiss" in ran.err
    assert broken.run("dbb", "history", "x").code == 0


@pytest.mark.promise
def test_of_all_sections_one_that_is_wrong_stops_no_other(broken: Site) -> None:
    broken.put("x")
    assert broken.run("dbb-handoff").code == broken.run("dbb-finder").code == 0
    ran = broken.run("dbb-ingester", "--all")
    assert ran.code == 78
    assert ran.err.startswith(f"target.b: {broken.config}: [target.b] plugin: ")
    assert "target.a" in broken.run("dbb", "history", "x").out.partition("SUCCESS")[0]


@pytest.mark.parametrize("command", ["backfill finder.latiss", "rebuild finder.latiss"])
def test_what_records_for_all_targets_needs_them_all(broken: Site, command: str) -> None:
    broken.write(targets={"a": {}, "b": {"timeout": 0}})
    broken.put("x", where=broken.storage)
    ran = broken.run("dbb", *command.split())
    assert ran.code == 78
    assert "[target.b] timeout" in ran.err


# ---- what children are given ---------------------------------------------------------------------

SECRETS = {"PGPASSWORD": "48151623-a", "DBB_PASSWORD": "48151623-b", "OTHER": "48151623-c"}


@pytest.mark.promise
@pytest.mark.parametrize("kind", ["transfer", "remote", "plugin"])
def test_no_child_has_the_secrets_of_the_database(site: Site, kind: str) -> None:
    seen = site.root / "seen"
    spy = site.root / "spy"
    spy.write_text(f'#!/bin/sh\nenv >>{seen}\nexec "$@"\n')
    spy.chmod(0o755)
    far = {
        "transfer": {"transfer": f"{spy} cp -p -- {{batch}} {{dest}}"},
        "remote": {"remote": f"{spy} sh -c {{command}}"},
    }
    command = {"plugin": "command", "config": {"command": f"{spy} test -e {{file}}"}}
    site.write(
        database={"password": "${DBB_PASSWORD}"},
        endpoint=far.get(kind, {}),
        targets={"a": command if kind == "plugin" else {}},
    )
    site.put("x")
    for script in ("dbb-handoff", "dbb-finder", "dbb-ingester"):
        assert site.run(script, env=SECRETS).code == 0
    environment = seen.read_text()
    assert SECRETS["OTHER"] in environment
    assert SECRETS["DBB_PASSWORD"] not in environment
    assert SECRETS["PGPASSWORD"] not in environment


@pytest.mark.promise
def test_a_variable_in_a_command_is_refused_before_anybody_can_see_its_value(site: Site) -> None:
    site.write(endpoint={"transfer": "cp -p -- {batch} {dest} ${OTHER}"})
    ran = site.run("dbb-handoff", env=SECRETS)
    assert ran.code == 78
    assert "${OTHER} would be seen by everybody" in ran.err
    assert SECRETS["OTHER"] not in ran.err


# ---- what a parent process left ------------------------------------------------------------------


@pytest.mark.promise
@pytest.mark.parametrize("how", ["--ignore-signal=CHLD", "--block-signal"])
def test_signals_that_a_parent_ignores_or_blocks_are_ours_again(site: Site, how: str) -> None:
    site.write(targets={"a": {"plugin": "command", "config": {"command": "test -e {file}"}}})
    site.put("x")
    for script in ("dbb-handoff", "dbb-finder", "dbb-ingester", "dbb-janitor", "dbb-auditor"):
        ran = subprocess.run(
            ["env", how, sys.executable, TOP / "bin" / script],
            env={**os.environ, "DBB_CONFIG": str(site.config)},
            capture_output=True,
            check=False,
        )
        assert (script, ran.returncode, ran.stderr) == (script, 0, b"")
    assert list(tree(site.storage)) == ["x"]


@pytest.mark.promise
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("dbb-handoff", 0),
        ("dbb-finder", 0),
        ("dbb-ingester", 0),
        ("dbb-janitor", 0),
        ("dbb-auditor", 0),
        ("dbb status", 0),
        ("dbb check", 0),
        ("dbb backup relative", 64),
        ("dbb demo relative", 64),
        ("dbb-handoff -c dbb.toml", 78),
        ("dbb-handoff --log-file relative", 78),
    ],
)
def test_a_current_directory_that_was_removed_is_never_a_bug(
    site: Site, command: str, code: int
) -> None:
    site.write(targets={"a": {"plugin": "command", "config": {"command": "test -e {file}"}}})
    site.put("x")
    gone = site.root / "gone"
    gone.mkdir()
    script, *arguments = command.split()
    ran = subprocess.run(
        [
            *("sh", "-c", 'cd "$1"; rmdir "$1"; shift; exec "$@"', "sh", gone),
            *(sys.executable, TOP / "bin" / script, *arguments),
        ],
        env={**os.environ, "DBB_CONFIG": str(site.config)},
        capture_output=True,
        check=False,
    )
    assert ran.returncode == code, ran.stderr
    assert ran.stderr.count(b"\n") == (1 if code else 0)
