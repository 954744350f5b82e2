import datetime
import os
import shutil
import subprocess
import tracemalloc

import pytest

from dbbbatch.files import rsync_log
from dbbbatch.files.tree import Tree, outside

PREFIX = b"2026/11/24 07:03:13 [8979] "


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b">f+++++++++ d/a.fits", "d/a.fits"),
        (b"<f+++++++++ d/a.fits", "d/a.fits"),
        (PREFIX + b"<f+++++++++ a", "a"),
        (PREFIX + b">f.st...... updated", "updated"),
        (b"<fcsTpogua x", "x"),
        (b">f+++++++ a b.fits of an older rsync", "a b.fits of an older rsync"),
        (b">f.st.... a b.fits", "a b.fits"),
        (b"hf          the same => there", "the same"),
        (b"hf        a b of an older rsync => there", "a b of an older rsync"),
        (b"cf+++++++++ copied", "copied"),
        (b"hf+++++++++ d/hard.fits => d/plain.fits", "d/hard.fits"),
        (b">f+++++++++   two blanks ", "  two blanks "),
        (b">f+++++++++ a -> b", "a -> b"),
        (rb">f+++++++++ nl\#012x", "nl\nx"),
        (rb">f+++++++++ back\#134#123x", r"back\#123x"),
        (rb">f+++++++++ back\slash", r"back\slash"),
        (rb">f+++++++++ \#377\#376", os.fsdecode(b"\xff\xfe")),
        (b">f+++++++++ \xff", os.fsdecode(b"\xff")),
        (b"cd+++++++++ d/", None),
        (b"cL+++++++++ d/sym -> plain.fits", None),
        (b".f...p..... attributes", None),
        (b"*deleting   gone", None),
        (PREFIX + b"building file list", None),
        (PREFIX + b"sent 1076 bytes  received 317 bytes  total size 25", None),
        (PREFIX + b"rsync error: some files could not be transferred (code 23)", None),
        (b"two words", None),
        (b">f+++++++++ lost\0\0\0", None),
        (b"\0\0" + PREFIX + b">f+++++++++ after a hole", "after a hole"),
        (rb">f+++++++++ no\#000name", None),
        (b"", None),
    ],
)
def test_parse_finds_transferred_files_only(line, name):
    assert rsync_log.parse_line(line).name == name


@pytest.mark.parametrize(
    ("line", "updated"),
    [
        (b">f+++++++++ a", False),
        (b">f+++++++ a", False),
        (b"hf          a => b", False),
        (PREFIX + b">f.st...... a", True),
        (b"<fcsTpogua a", True),
        (b">f..T.... a", True),
    ],
)
def test_letters_distinguish_an_update_from_a_new_file(line, updated):
    assert rsync_log.parse_line(line).updated == updated


@pytest.mark.parametrize("line", [b"\0", b"a\0", b"\0>f+++++++++ a", rb">f+++++++++ a\#000"])
def test_a_line_with_nuls_is_damaged(line):
    assert rsync_log.parse_line(line).damaged
    assert not rsync_log.parse_line(b">f+++++++++ a").damaged


def test_line_whose_names_may_hold_its_arrow_can_be_read_in_several_ways():
    entry = rsync_log.parse_line(rb"hf+++++++++ x => y\#012 => x => z")
    assert entry.name == "x"
    assert entry.ways == (
        ("x", "y\n => x => z"),
        ("x => y\n", "x => z"),
        ("x => y\n => x", "z"),
    )
    assert rsync_log.parse_line(b"hf+++++++++ x => y").ways == ()
    assert rsync_log.parse_line(b">f+++++++++ x => y => z").name == "x => y => z"


def test_read_goes_on_where_it_was_and_leaves_an_unfinished_line(tmp_path):
    log = tmp_path / "rsync.log"
    log.write_bytes(b"building\n>f+++++++++ a\n>f+++++++++ b")
    assert list(rsync_log.read_lines(outside(str(log)))) == [
        rsync_log.LogLine(9),
        rsync_log.LogLine(23, "a"),
    ]
    assert rsync_log.complete(outside(str(log))) == 23
    with open(log, "ab") as file:
        file.write(b"b\nsent\n")
    assert [tuple(entry)[:2] for entry in rsync_log.read_lines(outside(str(log)), 23)] == [
        (38, "bb"),
        (43, None),
    ]
    assert rsync_log.complete(outside(str(log))) == 43


def test_days_are_the_directories_that_are_named_so(tmp_path):
    for name in ("20261124", "20261123", "20261199", "other"):
        (tmp_path / name).mkdir()
    assert rsync_log.days(Tree(str(tmp_path))) == [
        (datetime.date(2026, 11, day), f"202611{day}") for day in (23, 24)
    ]


def test_logs_are_those_that_are_named_so(tmp_path):
    for name in ("rsync.log", "rsync-1.log", "else.log", "rsync.log.done"):
        (tmp_path / name).touch()
    assert [log.path for log in rsync_log.logs(Tree(str(tmp_path)), "")] == [
        str(tmp_path / "rsync-1.log"),
        str(tmp_path / "rsync.log"),
    ]


def test_inside_refuses_every_way_out(tmp_path):
    storage = tmp_path / "storage"
    (storage / "d").mkdir(parents=True)
    os.symlink(tmp_path, storage / "out")
    os.symlink("d", storage / "in")
    refused = ["", "/etc/passwd", "../x", "d/../../x", "out/x", "a\0b"]
    assert not any(rsync_log.inside(str(storage), rel) for rel in refused)
    assert all(rsync_log.inside(str(storage), rel) for rel in ["d/a", "in/a", "..a", "-x"])


def test_directory_is_the_one_that_a_scan_meets(tmp_path):
    storage = tmp_path / "storage"
    (storage / "real" / "below").mkdir(parents=True)
    os.symlink("real", storage / "in")
    os.symlink(".", storage / "top")
    os.symlink(tmp_path, storage / "out")
    (tmp_path / "mounted").symlink_to(storage)
    found = {
        "": "",
        "real": "real",
        "in": "real",
        "in/below": "real/below",
        "in/to come": "real/to come",
        "top": "",
        "out": "out",
        "out/d": "out/d",
        "../d": "../d",
        "/etc": "/etc",
    }
    for root in (storage, tmp_path / "mounted"):
        assert {rel: rsync_log.scan_directory(str(root), rel) for rel in found} == found


def test_normal_returns_one_name_for_one_file():
    assert rsync_log.normal("./a//b/./c") == "a/b/c"


@pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed")
@pytest.mark.parametrize("how", ["log file", "standard output"])
def test_read_understands_the_installed_rsync(tmp_path, how):
    names = [
        b"plain.fits",
        b"a b",
        b"nl\nx",
        b"\xff\xfe",
        b"back\\slash",
        b"back\\#123x",
        b"tab\tx",
        "é".encode(),
        b"  lead",
        b"trail ",
        b"a -> b",
        b"a => b",
        b"\x01",
        b"-x",
        b"#x",
    ]
    source = os.fsencode(tmp_path / "source" / "d")
    os.makedirs(source)
    for name in names:
        with open(os.path.join(source, name), "wb") as file:
            file.write(name)
    os.link(os.path.join(source, b"plain.fits"), os.path.join(source, b"hard.fits"))
    os.symlink("plain.fits", os.path.join(source, b"sym"))
    log = tmp_path / "rsync.log"
    options = [f"--log-file={log}"] if how == "log file" else ["-i"]
    argv = ["rsync", "-aH", *options, f"{tmp_path}/source/", f"{tmp_path}/target/"]
    out = subprocess.run(argv, check=True, capture_output=True).stdout
    if how == "standard output":
        log.write_bytes(out)
    entries = [entry for entry in rsync_log.read_lines(outside(str(log))) if entry.name is not None]
    found = sorted(os.fsencode(entry.name) for entry in entries)
    assert found == sorted(b"d/" + name for name in [*names, b"hard.fits"])
    assert not any(entry.updated or entry.damaged for entry in entries)


def test_a_hole_of_any_size_is_not_held_in_memory(tmp_path):
    log = tmp_path / "rsync.log"
    log.write_bytes(b">f+++++++++ before\n")
    with log.open("r+b") as file:
        file.seek(64 << 20)
        file.write(b">f+++++++++ after\n>f+++++++++ next\n")
    tracemalloc.start()
    try:
        entries = list(rsync_log.read_lines(outside(str(log))))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [(entry.name, entry.damaged) for entry in entries] == [
        ("before", False),
        ("after", True),
        ("next", False),
    ]
    assert entries[-1].end == log.stat().st_size
    assert list(rsync_log.read_lines(outside(str(log)), entries[0].end)) == entries[1:]
    assert peak < 8 << 20


def test_a_long_line_without_an_end_is_left(tmp_path):
    log = tmp_path / "rsync.log"
    log.write_bytes(b">f+++++++++ a\n" + b"x" * (2 << 20))
    assert [entry.name for entry in rsync_log.read_lines(outside(str(log)))] == ["a"]
