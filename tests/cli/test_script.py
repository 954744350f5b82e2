"""The command line that every pass has."""

import json
import re

import pytest

from tests.support.scripts import run_script

SCRIPTS = ("dbb-handoff", "dbb-finder", "dbb-ingester")


pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_option(script, backend):
    ran = run_script(script, "--help")
    assert ran.code == 0
    for option in ("--dry-run", "--wait", "--max-time", "--limit", "--match", "--linger"):
        assert option in ran.out


@pytest.mark.promise
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_pass_with_nothing_to_do_is_silent_and_0(site, script):
    assert site.run(script) == (0, "", "")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_with_nothing_to_do_is_0(site, script):
    assert site.run(script, "--dry-run").code == 0


@pytest.mark.parametrize("argument", ["--no-such-option", "nosuch", "--limit=0", "--wait=soon"])
def test_a_wrong_command_line_is_64(site, argument):
    ran = site.run("dbb-handoff", argument)
    assert ran.code == 64
    assert "Traceback" not in ran.err


def test_a_wrong_configuration_is_78_with_each_problem_on_a_line(site):
    site.write(handoff={"bufer": "/x", "holdin": "/y"})
    ran = site.run("dbb-handoff")
    assert ran.code == 78
    assert re.search(
        r"\[handoff.latiss\] bufer: .*\n.*\[handoff.latiss\] holdin: ",
        "".join(sorted(ran.err.splitlines(True))),
    )


def test_a_configuration_that_is_not_there_is_78(backend):
    ran = run_script("dbb-handoff", "-c", "/nowhere/dbb.toml")
    assert ran.code == 78
    assert ran.err.count("\n") == 1


def test_a_log_file_gets_what_is_done_with_utc_times(site, tmp_path):
    site.put("a.fits")
    assert site.run("dbb-handoff", "--log-file", str(tmp_path / "log")).code == 0
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", (tmp_path / "log").read_text())


def test_linger_goes_with_one_section(site):
    site.write(targets={"a": {}, "b": {}})
    assert site.run("dbb-ingester", "--all", "--linger", "1").code == 64


def test_all_takes_every_section(site):
    site.write(targets={"a": {}, "b": {}})
    site.run("dbb-ingester", "--all")
    status = json.loads(site.run("dbb", "status", "--json").out)
    states = {one["label"]: one["state"] for one in status["components"]}
    assert (states["target.a"], states["target.b"]) == ("ok", "ok")
