"""Bare directories: few files may be lost with theirs, many look unmounted."""

import shutil
import subprocess

import pytest

from dbbbatch.areas.storage.missing import MissingDirectories, if_it_is_lost
from dbbbatch.database.models.file import File
from dbbbatch.files.tree import Tree
from tests.support.finding import Finding


@pytest.fixture
def finding(settings, tmp_path):
    return Finding(settings, tmp_path)


def fill(finding, **directories):
    for directory, count in directories.items():
        for number in range(count):
            finding.put(f"{directory}/night/{number}", b"%d" % number)
    assert finding.run() == 0


def test_outermost_bare_directory_with_more_than_a_few_files_looks_unmounted(finding):
    fill(finding, disk=4, few=3)
    for directory in ("disk", "few"):
        shutil.rmtree(finding.storage / directory)
    (finding.storage / "disk").mkdir()
    with finding.database():
        bare = MissingDirectories(Tree(str(finding.storage)))
        assert bare.unmounted("disk/night") == "disk"
        assert bare.unmounted("disk/another/night") == "disk"
        assert bare.unmounted("few/night") == ""
        assert bare.outermost("few/night") == "few"
        assert bare.unmounted("new") == ""


def test_directory_that_holds_something_is_mounted(finding):
    fill(finding, disk=4)
    shutil.rmtree(finding.storage / "disk/night")
    (finding.storage / "disk/stray").touch()
    with finding.database():
        assert (
            MissingDirectories(Tree(str(finding.storage))).unmounted("disk/night") == "disk/night"
        )
        assert MissingDirectories(Tree(str(finding.storage))).unmounted("disk") == ""


def test_files_below_a_directory_are_its_own_and_those_of_its_directories(finding):
    for rel in ("d/a", "d/e/a", "d-e/a", "d0/a", "D/a", "dé/a", "a"):
        finding.put(rel, rel.encode())
    assert finding.run() == 0
    finding.put("d/forgotten", b"x")
    assert finding.run() == 0
    finding.change_rows("UPDATE file SET status = 'FORGOTTEN' WHERE filename = 'forgotten'")
    with finding.database():
        storage = str(finding.storage)
        assert File.below(storage, "d", 10) == 2
        assert File.below(storage, "d", 1) == 1
        assert File.below(storage, "dé", 10) == 1
        assert File.below(storage, "no", 10) == 0


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize(
    "directory", [b"plain", b"a b", b"it's", b"m [1]", b"caf\xe9's", b"back\\\xff", b"new\nline"]
)
def test_pattern_that_is_advised_reaches_a_program_as_it_must(finding, directory):
    import glob
    import os

    said = if_it_is_lost(finding.finder, os.fsdecode(directory))
    assert said.startswith("if it is lost, run dbb-auditor latiss --missing 1 --match ")
    assert said.isprintable()
    words = said.partition("--match ")[2]
    ran = subprocess.run(["bash", "-c", f"printf %s {words}"], capture_output=True, check=True)
    assert ran.stdout == glob.escape(directory) + b"/*"
