"""Manual pages that are made from the commands."""

import shutil
import subprocess

import click
import pytest

from dbbbatch.cli import dbb, described, man
from tests.support.scripts import run_script

PAGES = dict(man.manual_pages())


def test_each_command_has_a_page():
    assert PAGES.keys() == {"dbb"} | {name.replace(" ", "-") for name, _ in described.commands()}


def test_the_page_of_dbb_lists_its_commands():
    assert all(f".B dbb {name}\n" in PAGES["dbb"] for name in dbb.SUBCOMMANDS)


@pytest.mark.parametrize("title", PAGES)
def test_a_page_has_its_options_exit_codes_and_files(title):
    for word in (r".B \-c, \-\-config FILE", ".B 75\n", "/etc/dbb/dbb.toml", "DBB_CONFIG"):
        assert word in PAGES[title]


@pytest.mark.skipif(not shutil.which("groff"), reason="needs groff")
@pytest.mark.parametrize("title", PAGES)
def test_a_page_is_rendered_without_a_warning(title):
    ran = subprocess.run(
        ["groff", "-man", "-Tutf8", "-P-cbou", "-ww"],
        input=PAGES[title].encode(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert ran.stderr == b""
    assert b"EXIT STATUS" in ran.stdout


def test_text_that_looks_like_a_request_is_text():
    command = click.Command("x", help=".B is 'no' request\n\n.PP and \\fB is no font")
    page = man._page("x", "x", command, ["dbb"])
    assert r"\&.B is \(aqno\(aq request" in page
    assert r"\&.PP and \efB is no font" in page


def test_pages_are_written_to_a_new_directory(tmp_path):
    ran = run_script("dbb", "man", str(tmp_path / "share/man1"))
    assert ran == (0, f"{tmp_path}/share/man1: {len(PAGES)} pages\n", "")
    assert (tmp_path / "share/man1/dbb-handoff.1").read_text() == PAGES["dbb-handoff"]


def test_a_directory_that_cannot_be_made_is_78(tmp_path):
    (tmp_path / "file").touch()
    ran = run_script("dbb", "man", str(tmp_path / "file/man1"))
    assert (ran.code, ran.err.count("\n")) == (78, 1)
