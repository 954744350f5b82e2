"""The operators' commands that belong to no single room."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import pytest

from dbbbatch.cli import dbb
from dbbbatch.cli.operator import Operator, leave
from tests.support.disks import small_disk
from tests.support.scripts import TOP, run_script
from tests.support.site import Site


def test_help_names_every_command() -> None:
    code, out, _ = run_script("dbb", "--help")
    assert code == 0
    assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in dbb.SUBCOMMANDS)


def test_help_imports_no_command() -> None:
    code, _, err = run_script("dbb", "--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    imported = {line.rpartition("|")[2].strip() for line in err.splitlines()}
    assert code == 0
    assert "click" in imported
    assert not {"rich", "peewee", "dbbbatch.cli.status", "dbbbatch.cli.demo"} & imported


@pytest.mark.parametrize("name", dbb.SUBCOMMANDS)
def test_every_command_has_help_and_takes_a_configuration(name: str) -> None:
    command = dbb.dbb.get_command(click.Context(dbb.dbb), name)
    assert command is not None
    assert command.help
    assert any("-c" in parameter.opts for parameter in command.params)


def test_an_unknown_command_is_a_usage_error() -> None:
    code, _, err = run_script("dbb", "no-such-command")
    assert code == 64
    assert "no-such-command" in err


def test_a_missing_configuration_is_one_line() -> None:
    code, out, err = run_script("dbb", "status", "-c", "/no/such/file")
    assert (code, out) == (78, "")
    assert err == "dbb: /no/such/file: cannot be read: No such file or directory\n"


@pytest.mark.parametrize("configured", [True, False])
def test_what_is_unforeseen_is_one_line_that_names_the_file_to_report(
    site: Site,
    configured: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @click.command()
    @click.pass_obj
    def broken(operator: Operator) -> None:
        raise ZeroDivisionError(operator.settings if configured else "")

    monkeypatch.setattr("sys.argv", ["dbb-broken"])
    monkeypatch.setattr("tempfile.tempdir", str(site.root))
    with pytest.raises(SystemExit) as ended:
        leave("dbb-broken", broken, Operator(str(site.config)))
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (70, 1)
    kept = Path(said.strip().rpartition(" report it with ")[2])
    assert kept.parent == (site.state / "crashes" if configured else site.root)
    assert "ZeroDivisionError" in kept.read_text()


def test_a_configuration_may_stand_before_the_command(site: Site) -> None:
    assert run_script("dbb", "-c", str(site.config), "status").code == 0


def test_the_script_runs_from_a_checkout_that_is_not_installed(tmp_path: Path) -> None:
    # -S: site-packages, and so the installed package, are not looked at; PYTHONPATH brings the
    # libraries back.
    libraries = str(Path(click.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-S", TOP / "bin" / "dbb", "--version"],
        env={**os.environ, "PYTHONPATH": libraries},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


class TestInit:
    def test_can_be_run_any_number_of_times(self, tmp_path: Path, empty_database_url: str) -> None:
        site = Site(tmp_path / "site", empty_database_url).write()
        first, second = site.run("dbb", "init"), site.run("dbb", "init")
        assert (first.code, second.code) == (0, 0)
        assert "001_run.sql" in first.out
        assert "up to date" in second.out

    def test_does_not_call_tables_of_a_newer_version_up_to_date(self, site: Site) -> None:
        from dbbbatch.database import connect

        connect.connect(site.settings().database)
        connect.write(connect.execute, "UPDATE schema_version SET oldest_script = '99.0'")
        connect.disconnect()
        code, out, err = site.run("dbb", "init")
        assert (code, out) == (78, "")
        assert "upgrade dbbbatch on this host" in err

    def test_on_a_full_disk_is_one_line(self, tmp_path: Path) -> None:
        with small_disk(tmp_path / "disk", 1 << 20) as disk:
            site = Site(tmp_path / "site", f"sqlite:///{disk.path}/dbb.sqlite").write()
            disk.fill(blocks=1)
            code, _, err = site.run("dbb", "init")
        assert code == 75
        assert err.count("\n") == 1
        assert err.startswith(f"dbb: {disk.path}/dbb.sqlite: the disk is full or failing (")

    @pytest.mark.parametrize("backend", ["sqlite"])
    def test_says_what_to_do_when_storage_is_not_there(self, site: Site) -> None:
        shutil.rmtree(site.storage)
        code, _, err = site.run("dbb", "init")
        assert code == 75
        assert f"storage {site.storage}: does not exist" in err

    @pytest.mark.parametrize("backend", ["sqlite"])
    def test_does_not_call_known_storage_mounted_that_is_empty(self, site: Site) -> None:
        site.put("a.fits", where=site.far_buffer)
        assert site.run("dbb-finder").code == 0
        shutil.rmtree(site.storage)
        site.storage.mkdir()
        code, _, err = site.run("dbb", "init")
        assert code == 75
        assert "looks unmounted" in err
        assert list(site.storage.iterdir()) == []


def paused(site: Site) -> list[dict[str, Any]]:
    """Return the components that are paused, as `dbb status` has them."""
    components = json.loads(site.run("dbb", "status", "--json").out)["components"]
    return [one for one in components if one["state"] == "paused"]


class TestPause:
    def test_keeps_a_pass_from_working(self, site: Site) -> None:
        site.put("a.fits")
        site.run("dbb", "init")
        assert site.run("dbb", "pause", "handoff.latiss", "--reason", "mirror").code == 0
        assert site.run("dbb-handoff") == (0, "", "")
        assert (site.buffer / "a.fits").exists()

    @pytest.mark.parametrize("label", ["janitor.latiss", "finder.latiss", "target.a"])
    def test_is_for_passes_of_every_kind(self, site: Site, label: str) -> None:
        assert site.run("dbb", "pause", label).code == 0
        assert site.run("dbb", "resume", label).out == f"{label} works again\n"

    def test_resume_ends_it(self, site: Site) -> None:
        site.put("a.fits")
        site.run("dbb", "init")
        site.run("dbb", "pause", "handoff.latiss")
        assert site.run("dbb", "resume", "handoff.latiss").out == "handoff.latiss works again\n"
        assert site.run("dbb-handoff") == (0, "", "")
        assert not (site.buffer / "a.fits").exists()

    def test_may_be_changed_while_it_lasts(self, site: Site) -> None:
        site.run("dbb", "pause", "handoff.latiss", "--until", "2999-01-01")
        site.run("dbb", "pause", "handoff.latiss", "--reason", "still away")
        assert [(one["paused_until"], one["message"]) for one in paused(site)] == [
            (None, "still away")
        ]

    def test_a_time_that_is_past_is_refused(self, site: Site) -> None:
        code, _, err = site.run("dbb", "pause", "handoff.latiss", "--until", "2001-01-01")
        assert code == 64
        assert "is past" in err

    @pytest.mark.parametrize("label", ["latiss", "hand", "janitor.x.y"])
    def test_half_a_label_is_refused_as_it_was_typed(self, site: Site, label: str) -> None:
        code, _, err = site.run("dbb", "pause", label)
        known = "handoff.latiss, finder.latiss, target.a"
        assert code == 64
        assert err == f"dbb: {label!r}: expected KIND.NAME; known: {known}\n"

    def test_an_unknown_section_is_refused_with_the_known_ones(self, site: Site) -> None:
        code, _, err = site.run("dbb", "pause", "handoff.latis")
        assert code == 64
        assert "latiss" in err

    def test_a_component_whose_section_is_gone_is_no_trouble_once_paused(self, site: Site) -> None:
        assert site.write(targets={"b": {"plugin": "no-such"}}).run("dbb-ingester").code == 78
        assert site.write().run("dbb", "status", "--check").code == 2
        assert site.run("dbb", "pause", "target.b").code == 0
        assert site.run("dbb", "status", "--check").code == 0

    def test_a_whole_kind_is_paused_and_resumed(self, site: Site) -> None:
        site.write(targets={"a": {}, "b": {}})
        ran = site.run("dbb", "pause", "target", "--reason", "mirror")
        assert ran.out.splitlines() == [
            "target.a is paused until `dbb resume`",
            "target.b is paused until `dbb resume`",
        ]
        assert site.run("dbb-ingester", "b") == (0, "", "")
        site.run("dbb", "resume", "target.b")
        ran = site.run("dbb", "resume", "target")
        assert ran.out == "target.a works again\ntarget.b was not paused\n"
        assert site.run("dbb", "pause", "janitor").out.startswith("janitor.latiss is paused")

    def test_for_some_time(self, site: Site) -> None:
        ran = site.run("dbb", "pause", "finder.latiss", "--for", "2h")
        assert ran.code == 0
        (one,) = json.loads(site.run("dbb", "pause", "--json").out)
        times = [datetime.fromisoformat(one[key]) for key in ("since", "until")]
        assert round((times[1] - times[0]).total_seconds()) == 7200

    def test_without_a_name_the_pauses_are_listed(self, site: Site) -> None:
        assert site.run("dbb", "pause") == (0, "nothing is paused\n", "")
        site.run("dbb", "pause", "finder.latiss", "--until", "2999-01-01", "--reason", "mirror")
        site.run("dbb", "pause", "handoff")
        assert site.run("dbb", "pause").out.splitlines() == [
            "finder.latiss is paused until 2999-01-01 00:00 UTC: mirror",
            "handoff.latiss is paused until `dbb resume`",
        ]

    @pytest.mark.parametrize(
        "arguments", ["--for 2h", "handoff --for 2h --until 06:00", "handoff --for soon", "finders"]
    )
    def test_what_cannot_be_meant_is_a_usage_error(self, site: Site, arguments: str) -> None:
        assert site.run("dbb", "pause", *arguments.split()).code == 64
        assert site.run("dbb", "pause").out == "nothing is paused\n"


@pytest.fixture
def local_time_far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Pacific/Honolulu")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("local_time_far_from_utc")
def test_times_are_utc_wherever_the_host_is(site: Site) -> None:
    site.run("dbb", "pause", "handoff.latiss", "--until", "2999-01-01 06:00")
    assert [one["paused_until"] for one in paused(site)] == ["2999-01-01T06:00:00Z"]
    at = json.loads(site.run("dbb", "status", "--json").out)["at"]
    assert abs(datetime.fromisoformat(at).timestamp() - time.time()) < 60
