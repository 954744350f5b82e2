import datetime
import os
import shutil
import subprocess

import pytest

from dbbbatch.files import rsync_log

PREFIX = b"2026/11/24 07:03:13 [8979] "


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b">f+++++++++ d/a.fits", "d/a.fits"),
        (b"<f+++++++++ d/a.fits", "d/a.fits"),
        (PREFIX + b"<f+++++++++ a", "a"),
        (PREFIX + b">f.st...... updated", "updated"),
        (b"<fcsTpogua x", "x"),
        (b">f+++++++ of an older rsync", "of an older rsync"),
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
        (b"", None),
    ],
)
def test_parse_finds_transferred_files_only(line, name):
    assert rsync_log.parse(line) == name


def test_read_goes_on_where_it_was_and_leaves_an_unfinished_line(tmp_path):
    log = tmp_path / "rsync.log"
    log.write_bytes(b"building\n>f+++++++++ a\n>f+++++++++ b")
    assert list(rsync_log.read(str(log))) == [("a", 23)]
    assert rsync_log.complete(str(log)) == 23
    with open(log, "ab") as file:
        file.write(b"b\nsent\n")
    assert list(rsync_log.read(str(log), 23)) == [("bb", 38)]
    assert rsync_log.complete(str(log)) == 43


def test_logs_are_those_of_the_days_asked_for(tmp_path):
    for name in ("20261122", "20261123", "20261124", "20261199", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rsync-1.log").touch()
        (tmp_path / name / "else.log").touch()
    found = rsync_log.logs(str(tmp_path), datetime.date(2026, 11, 23), datetime.date(2026, 11, 24))
    assert list(found) == [
        (datetime.date(2026, 11, day), str(tmp_path / f"202611{day}" / "rsync-1.log"))
        for day in (23, 24)
    ]


def test_inside_refuses_every_way_out(tmp_path):
    storage = tmp_path / "storage"
    (storage / "d").mkdir(parents=True)
    os.symlink(tmp_path, storage / "out")
    os.symlink("d", storage / "in")
    refused = ["", "/etc/passwd", "../x", "d/../../x", "out/x", "a\0b"]
    assert not any(rsync_log.inside(str(storage), rel) for rel in refused)
    assert all(rsync_log.inside(str(storage), rel) for rel in ["d/a", "in/a", "..a", "-x"])


def test_normal_gives_one_name_for_one_file():
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
    found = sorted(os.fsencode(entry.name) for entry in rsync_log.read(str(log)))
    assert found == sorted(b"d/" + name for name in [*names, b"hard.fits"])
