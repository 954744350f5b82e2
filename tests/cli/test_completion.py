"""What a shell completes, and that it stays silent where it cannot."""

import os
import subprocess
import sys

import pytest

from tests.support.scripts import TOP, run_script

pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


def completed(program, *words):
    """Return what the last word of a command line is completed with, as bash asks for it."""
    name = f"_{program}_COMPLETE".replace("-", "_").upper()
    env = {name: "bash_complete", "COMP_WORDS": " ".join([program, *words])}
    ran = run_script(program, env={**env, "COMP_CWORD": str(len(words))})
    assert (ran.code, ran.err) == (0, "")
    return [line.removeprefix("plain,") for line in ran.out.split()]


def test_a_command_is_completed(site):
    assert completed("dbb", "his") == ["history"]


def test_a_script_completes_the_sections_of_its_kind(site):
    site.write(targets={"catalog": {}, "by-night": {}})
    assert completed("dbb-ingester", "-c", str(site.config), "c") == ["catalog"]


def test_sections_are_completed_with_their_kinds(site):
    site.write(targets={"catalog": {}})
    found = completed("dbb", "retry", "-c", str(site.config), "''")
    assert found == ["handoff.latiss", "finder.latiss", "target.catalog"]


def test_the_configuration_may_come_before_the_command(site):
    assert completed("dbb", "-c", str(site.config), "retry", "f") == ["finder.latiss"]


def test_a_command_for_one_kind_completes_that_kind(site):
    assert completed("dbb", "backfill", "-c", str(site.config), "''") == ["finder.latiss"]


def test_what_has_no_section_of_its_own_can_be_paused(site):
    assert completed("dbb", "pause", "-c", str(site.config), "jan") == ["janitor.latiss"]


@pytest.mark.parametrize("text", ["[site", "", "\0"])
def test_a_configuration_that_cannot_be_read_completes_nothing(site, text):
    site.config.write_text(text)
    assert completed("dbb", "retry", "-c", str(site.config), "''") == []
    site.config.unlink()
    assert completed("dbb-handoff", "-c", str(site.config), "''") == []


def test_bash_completes_every_script(site):
    printed = run_script("dbb", "completion", "bash").out
    ran = subprocess.run(
        ["bash", "-c", f"{printed}\ncomplete -p dbb dbb-handoff dbb-report"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout.count(b"\n") == 3


def test_the_package_can_be_run(site):
    ran = subprocess.run(
        [sys.executable, "-m", "dbbbatch", "--version"],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout.startswith(b"dbb, version")


def test_a_list_completes_its_component(site):
    assert completed("dbb", "list", "-c", str(site.config), "h") == ["handoff.latiss"]
