import os
import re
import socket
import time

import pytest

from dbbbatch.files import temporary
from dbbbatch.files.clock import Clock
from dbbbatch.files.scan import scan
from dbbbatch.files.tree import Tree


@pytest.fixture
def put(tmp_path):
    def put(rel, age=0):
        path = os.path.join(str(tmp_path), rel)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write("x")
        os.utime(path, (time.time() - age,) * 2)

    return put


def names(root, *args, **keywords):
    return sorted(found.rel for found in scan(Tree(str(root)), *args, **keywords))


def test_scan_describes_each_file(tmp_path, put):
    put("2026/a.fits")
    (found,) = scan(Tree(str(tmp_path)))
    status = os.stat(tmp_path / "2026/a.fits")
    assert found == (
        "2026/a.fits", 1, status.st_mtime_ns, status.st_ino, status.st_dev, status.st_ctime_ns
    )  # fmt: skip


def test_scan_takes_directories_in_the_order_of_their_names(tmp_path, put):
    for day in ("20261124", "20261122", "20261123"):
        put(f"{day}/a/x")
        put(f"{day}/b/x")
    rels = [found.rel for found in scan(Tree(str(tmp_path)))]
    assert rels == sorted(rels)


def test_scan_excludes_by_relative_path(tmp_path, put):
    for rel in ("a.fits", "a.fits.tmp", "x.tmp/b.fits", "lost+found/c"):
        put(rel)
    exclude = [re.compile(r"\.tmp$"), re.compile(r"^lost\+found/")]
    assert names(tmp_path, exclude) == ["a.fits", "x.tmp/b.fits"]


def test_scan_passes_over_what_a_client_of_nfs_keeps_for_a_program(tmp_path, put):
    for rel in (".nfs000000000000abcd00000001", ".nfs", "b/.nfs.fits"):
        put(rel)
    assert names(tmp_path) == [".nfs", "b/.nfs.fits"]


def test_scan_does_not_enter_an_excluded_directory(tmp_path, put, monkeypatch):
    put("lost+found/c")
    entered = []
    real = Tree.scan
    monkeypatch.setattr(Tree, "scan", lambda tree, rel: entered.append(rel) or real(tree, rel))
    assert names(tmp_path, [re.compile(r"^lost\+found/")]) == []
    assert entered == [""]


class At(Clock):
    """A clock that stands."""

    def __init__(self, seconds):
        super().__init__("/")
        self._shown = int(seconds * 1e9)

    def now_ns(self):
        return self._shown


def test_scan_passes_over_files_that_have_not_settled(tmp_path, put):
    put("young")
    put("old", age=100)
    assert names(tmp_path, settle=60, clock=At(time.time())) == ["old"]
    assert names(tmp_path, settle=0, clock=At(time.time())) == ["old", "young"]


def test_scan_goes_by_the_inode_where_a_date_lies_in_the_future(tmp_path, put):
    put("ahead", age=-10_000)
    assert names(tmp_path, settle=60, clock=At(time.time() + 100)) == ["ahead"]
    assert names(tmp_path, settle=60, clock=At(time.time())) == []


def test_scan_reports_what_is_no_file_and_opens_none_of_it(tmp_path, put):
    put("dir/file")
    os.symlink("file", tmp_path / "dir/link")
    os.symlink("dir", tmp_path / "linked")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    odd = {}
    assert names(tmp_path, odd=odd.__setitem__) == ["dir/file"]
    assert odd == {
        "dir/link": "a symbolic link",
        "linked": "a symbolic link",
        "fifo": "a FIFO",
        "socket": "a socket",
    }


def test_scan_reports_a_directory_that_it_may_not_read(tmp_path, put, monkeypatch):
    put("closed/a")
    put("open/a")
    real = Tree.scan

    def read(tree, rel):
        if rel == "closed":
            raise PermissionError(13, "Permission denied")
        yield from real(tree, rel)

    monkeypatch.setattr(Tree, "scan", read)
    odd = {}
    assert names(tmp_path, odd=odd.__setitem__) == ["open/a"]
    assert odd == {"closed": "directory cannot be read: Permission denied"}


def test_scan_needs_its_root(tmp_path):
    with pytest.raises(FileNotFoundError):
        Tree(str(tmp_path / "unmounted"))


def test_scan_skips_unfinished_copies_of_ours(tmp_path, put):
    put("a")
    put(os.path.basename(temporary.temporary_path("b")))
    odd = {}
    assert names(tmp_path, odd=odd.__setitem__) == ["a"]
    assert odd == {}


def test_scan_reports_what_has_a_name_like_ours(tmp_path, put):
    for rel in (".dbb~notes", ".dbb~excluded"):
        put(rel)
    odd = {}
    assert names(tmp_path, [re.compile("excluded$")], odd=odd.__setitem__) == []
    assert odd == {".dbb~notes": "begins with .dbb~, as unfinished copies do"}


def test_scan_bears_files_taken_away_meanwhile(tmp_path, put):
    for number in range(100):
        put(f"{number % 3}/{number}")
    seen = []
    for found in scan(Tree(str(tmp_path))):
        os.unlink(tmp_path / found.rel)
        seen.append(found.rel)
    assert len(seen) == len(set(seen)) == 100


@pytest.mark.parametrize("name", [b"a b", b"-x", b"$(x)", b"a\nb", b"\xff\xfe", b"#", b"'\""])
def test_scan_yields_names_that_lead_to_the_file(tmp_path, name):
    (tmp_path / os.fsdecode(name)).touch()
    (found,) = scan(Tree(str(tmp_path)))
    assert os.fsencode(found.rel) == name
