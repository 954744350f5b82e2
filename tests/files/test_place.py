import errno
import os
import stat

import pytest

from dbbbatch.files import checksum, place, temporary, tree
from dbbbatch.files.tree import outside

NAMES = ["a.fits", "a b.fits", "-rf", "$(touch x)", "a\nb", "q\"'", os.fsdecode(b"\xff\xfe.fits")]


@pytest.fixture
def link_only(monkeypatch):
    """A file system that does not know RENAME_NOREPLACE."""
    for module in (tree, place):
        monkeypatch.setattr(module, "rename", lambda *_: False)


def write(path, text="content"):
    with open(path, "w") as file:
        file.write(text)
    return str(path)


def read(path):
    with open(path) as file:
        return file.read()


@pytest.mark.parametrize("name", NAMES)
def test_place_moves_any_name(tmp_path, name):
    source, destination = str(tmp_path / "in"), str(tmp_path / name)
    write(source)
    place.place(outside(source), outside(destination))
    assert os.listdir(os.fsencode(tmp_path)) == [os.fsencode(name)]
    assert read(destination) == "content"


@pytest.mark.promise
def test_place_is_done_where_a_server_answers_the_removal_of_the_old_name_twice(
    tmp_path, link_only, monkeypatch
):
    source, destination = write(tmp_path / "a"), str(tmp_path / "b")

    def unlink(path, dir_fd, real=os.unlink):
        real(path, dir_fd=dir_fd)
        real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    place.place(outside(source), outside(destination))
    assert os.listdir(tmp_path) == ["b"]


def test_place_keeps_what_is_there(tmp_path):
    source, destination = write(tmp_path / "a", "new"), write(tmp_path / "b", "old")
    with pytest.raises(FileExistsError):
        place.place(outside(source), outside(destination))
    assert (read(source), read(destination)) == ("new", "old")


def test_place_by_link_moves(tmp_path, link_only):
    source, destination = write(tmp_path / "a"), str(tmp_path / "b")
    place.place(outside(source), outside(destination))
    assert os.listdir(tmp_path) == ["b"]
    assert os.stat(destination).st_nlink == 1


def test_place_by_link_keeps_what_is_there(tmp_path, link_only):
    source, destination = write(tmp_path / "a", "new"), write(tmp_path / "b", "old")
    with pytest.raises(FileExistsError):
        place.place(outside(source), outside(destination))
    assert (read(source), read(destination)) == ("new", "old")


@pytest.mark.parametrize("how", ["rename", "link"])
def test_place_finishes_a_link_whose_unlink_never_came(tmp_path, how, request):
    if how == "link":
        request.getfixturevalue("link_only")
    source, destination = write(tmp_path / "a"), str(tmp_path / "b")
    os.link(source, destination)
    place.place(outside(source), outside(destination))
    assert os.listdir(tmp_path) == ["b"]


@pytest.mark.parametrize("links", [1, 2])
def test_place_never_unlinks_the_only_name_through_another_path(tmp_path, links):
    storage = tmp_path / "storage"
    storage.mkdir()
    os.symlink(storage, tmp_path / "alias")
    write(storage / "a")
    if links == 2:
        os.link(storage / "a", tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        place.place(outside(str(tmp_path / "alias" / "a")), outside(str(storage / "a")))
    assert read(storage / "a") == "content"


def test_place_refuses_where_links_are_forbidden(tmp_path, link_only, monkeypatch):
    source = write(tmp_path / "a")

    def forbidden(*args, **keywords):
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(os, "link", forbidden)
    with pytest.raises(OSError, match="nothing is placed here") as caught:
        place.place(outside(source), outside(str(tmp_path / "b")))
    assert caught.value.errno == errno.ENOTSUP
    assert os.listdir(tmp_path) == ["a"]


def test_place_refuses_another_file_system(tmp_path, other_file_system):
    source = write(tmp_path / "a")
    with pytest.raises(OSError, match="cross-device") as caught:
        place.place(outside(source), outside(str(other_file_system / "a")))
    assert caught.value.errno == errno.EXDEV
    assert read(source) == "content"


def test_place_versioned_takes_the_next_free_version(tmp_path):
    write(tmp_path / "a", "old")
    got = []
    for number in range(3):
        source = write(tmp_path / "new", str(number))
        got.append(place.place_versioned(outside(source), outside(str(tmp_path / "a"))))
    assert got == ["a.~1~", "a.~2~", "a.~3~"]
    assert [read(tmp_path / name) for name in ["a", *got]] == ["old", "0", "1", "2"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127 + "x"])
def test_versioned_fits_the_longest_name(tmp_path, name):
    write(tmp_path / name)
    version = os.path.basename(place.next_version(outside(str(tmp_path / name))).path)
    write(tmp_path / version)
    assert version.endswith(".~1~")
    assert len(os.fsencode(version)) <= 255


def test_copy_into_copies_hashes_and_keeps_the_source(tmp_path, other_file_system):
    source, destination = write(tmp_path / "a"), str(other_file_system / "a")
    os.utime(source, ns=(1, 2))
    sums = place.copy_into(
        outside(source), outside(destination), ["blake2b", "adler32"], mode=0o444
    )
    assert sums == checksum.compute(outside(source), ["blake2b", "adler32"])
    assert read(destination) == read(source) == "content"
    status = os.stat(destination)
    assert (status.st_mtime_ns, stat.S_IMODE(status.st_mode)) == (2, 0o444)


def test_copy_into_keeps_what_is_there(tmp_path):
    source, destination = write(tmp_path / "a", "new"), write(tmp_path / "b", "old")
    with pytest.raises(FileExistsError):
        place.copy_into(outside(source), outside(destination), ["md5"])
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert read(destination) == "old"


def test_copy_into_takes_over_what_a_kill_left(tmp_path):
    source, destination = write(tmp_path / "a"), str(tmp_path / "b")
    write(temporary.temporary_path(destination, "finder.x"), "half")
    place.copy_into(outside(source), outside(destination), ["md5"], owner="finder.x")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_copy_into_leaves_nothing_of_a_source_that_changes(tmp_path, monkeypatch):
    source = write(tmp_path / "a")
    stream = checksum.stream

    def grow(*args):
        found = stream(*args)
        with open(source, "a") as file:
            file.write("more")
        return found

    monkeypatch.setattr(checksum, "stream", grow)
    with pytest.raises(checksum.Changed):
        place.copy_into(outside(source), outside(str(tmp_path / "b")), ["md5"])
    assert os.listdir(tmp_path) == ["a"]


def test_copy_into_leaves_nothing_on_a_full_disk(tmp_path, monkeypatch):
    source = write(tmp_path / "a")

    def full(*args):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="full"):
        place.copy_into(outside(source), outside(str(tmp_path / "b")), ["md5"])
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.promise
def test_copy_beside_reports_the_error_of_an_early_write(tmp_path, monkeypatch):
    """Told once, to this descriptor: no later sync of the file system would have to say it."""
    source = write(tmp_path / "a", "x" * (5 << 20))

    def broken(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        place.copy_beside(outside(source), outside(str(tmp_path / "b")), ["md5"])
    assert os.listdir(tmp_path) == ["a"]


def test_copy_beside_copies_a_file_that_is_written_early_in_parts(tmp_path, other_file_system):
    source, destination = write(tmp_path / "a", "0123456789" * (1 << 20)), other_file_system / "b"
    sums = place.copy_beside(outside(source), outside(str(destination)), ["md5"])
    assert sums == checksum.compute(outside(source), ["md5"])
    assert read(temporary.temporary_path(str(destination))) == read(source)


@pytest.mark.promise
def test_copy_beside_that_has_its_blocks_is_as_long_as_what_was_written(tmp_path, monkeypatch):
    """Else zeros would stand where a source gave less than its size."""
    source = write(tmp_path / "a", "x" * (5 << 20))
    sizes = []

    def measured(descriptor, block, real=place.write_block):
        sizes.append(os.fstat(descriptor).st_size)
        real(descriptor, block)

    monkeypatch.setattr(place, "write_block", measured)
    place.copy_beside(outside(source), outside(str(tmp_path / "b")), ["md5"])
    assert sizes == list(range(0, 5 << 20, checksum._BLOCK))


def test_copy_into_does_not_follow_a_link(tmp_path):
    write(tmp_path / "a")
    os.symlink("a", tmp_path / "link")
    with pytest.raises(checksum.NotRegular):
        place.copy_into(outside(str(tmp_path / "link")), outside(str(tmp_path / "b")))
    assert sorted(os.listdir(tmp_path)) == ["a", "link"]


def test_make_directories_makes_all_but_the_root(tmp_path):
    place.make_directories(str(tmp_path), "a/b/c", 0o750)
    assert stat.S_IMODE(os.stat(tmp_path / "a/b").st_mode) == 0o750
    with pytest.raises(FileNotFoundError):
        place.make_directories(str(tmp_path / "unmounted"), "a")
    with pytest.raises(FileNotFoundError):
        place.make_directories(str(tmp_path / "unmounted"), "")
    assert os.listdir(tmp_path) == ["a"]


def test_make_directories_stops_at_a_file(tmp_path):
    write(tmp_path / "a")
    with pytest.raises(NotADirectoryError):
        place.make_directories(str(tmp_path), "a/b")


def test_directories_are_made_and_removed_deeper_than_functions_may_call_each_other(tmp_path):
    place.make_directories(str(tmp_path), "/".join(["d"] * 1200))
    assert place.remove_empty_directories(str(tmp_path), -1) == 1200


def age(path):
    os.utime(path, (1, 1))


def test_remove_empty_directories_takes_old_ones_with_their_parents(tmp_path):
    (tmp_path / "old" / "inner").mkdir(parents=True)
    for path in ("old/inner", "old"):
        age(tmp_path / path)
    age(tmp_path)
    assert place.remove_empty_directories(str(tmp_path), 10) == 2
    assert os.listdir(tmp_path) == []


def test_remove_empty_directories_leaves_young_full_and_kept_ones(tmp_path):
    for name in ("young", "full", "kept", "beside/empty"):
        (tmp_path / name).mkdir(parents=True)
    write(tmp_path / "full" / "a")
    write(tmp_path / "beside" / "a")
    for name in ("full", "kept", "beside/empty", "beside"):
        age(tmp_path / name)
    assert place.remove_empty_directories(str(tmp_path), 10, keep=["kept"]) == 1
    assert sorted(os.listdir(tmp_path)) == ["beside", "full", "kept", "young"]


def test_sync_and_space_of_a_directory(tmp_path):
    place.sync_directory(str(tmp_path))
    with tree.Tree(str(tmp_path)) as root:
        root.sync_file_system()
        with pytest.raises(FileNotFoundError):
            root.sync_file_system("gone")
    assert place.free_bytes(str(tmp_path)) > 0
    with pytest.raises(FileNotFoundError):
        place.sync_directory(str(tmp_path / "gone"))


def test_can_place_returns_how_and_leaves_nothing(tmp_path):
    assert place.can_place(str(tmp_path)) == "rename"
    assert os.listdir(tmp_path) == []


def test_can_place_falls_back_to_links(tmp_path, link_only):
    assert place.can_place(str(tmp_path)) == "link"
    assert os.listdir(tmp_path) == []


def test_can_place_finds_a_rename_that_overwrites(tmp_path, monkeypatch):
    def rename(source, source_in, destination, destination_in):
        os.rename(source, destination, src_dir_fd=source_in, dst_dir_fd=destination_in)
        return True

    monkeypatch.setattr(place, "rename", rename)
    with pytest.raises(OSError, match="overwritten"):
        place.can_place(str(tmp_path))


def test_can_place_needs_a_directory(tmp_path):
    with pytest.raises(FileNotFoundError):
        place.can_place(str(tmp_path / "gone"))


def test_write_new_writes_as_a_whole_and_overwrites_nothing(tmp_path):
    place.write_new(outside(str(tmp_path / "a")), "text")
    with pytest.raises(FileExistsError):
        place.write_new(outside(str(tmp_path / "a")), "other")
    assert os.listdir(tmp_path) == ["a"]
    assert read(tmp_path / "a") == "text"


def test_touch_leaves_what_is_there(tmp_path):
    write(tmp_path / "a", "text")
    place.touch(outside(str(tmp_path / "a")))
    place.touch(outside(str(tmp_path / "b")))
    assert (read(tmp_path / "a"), read(tmp_path / "b")) == ("text", "")


def test_is_there_does_not_take_what_cannot_be_seen_for_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.symlink_to("nowhere")
    assert place.is_there(outside(str(path)))
    assert not place.is_there(outside(str(tmp_path / "b")))
    assert not place.is_there(outside(str(tmp_path / ("x" * 300))))

    def stat(path, **_):
        raise OSError(errno.EIO, "Input/output error", path)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(OSError, match="Input/output"):
        place.is_there(outside(str(path)))


class TestRemovingWhatWasLookedAt:
    """Others may exchange the name of a file between a look and its removal."""

    def test_a_file_is_removed(self, tmp_path):
        (tmp_path / "a").write_text("ours")
        with tree.Tree(str(tmp_path)) as root:
            file = root.entry("a")
            place.remove_same(file, file.lstat(), place.taken(file))
        assert os.listdir(tmp_path) == []

    @pytest.mark.promise
    def test_another_one_stays_under_its_name(self, tmp_path):
        (tmp_path / "a").write_text("ours")
        (tmp_path / "b").write_text("next")
        with tree.Tree(str(tmp_path)) as root:
            file = root.entry("a")
            status = file.lstat()
            os.rename(tmp_path / "b", tmp_path / "a")
            with pytest.raises(checksum.Changed):
                place.remove_same(file, status, place.taken(file))
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "next"}

    def test_one_that_cannot_be_removed_keeps_its_name(self, tmp_path, monkeypatch):
        def refuse(entry):
            raise PermissionError(errno.EPERM, "Operation not permitted")

        (tmp_path / "a").write_text("ours")
        monkeypatch.setattr(tree.Entry, "unlink", refuse)
        with tree.Tree(str(tmp_path)) as root:
            file = root.entry("a")
            status = file.lstat()
            with pytest.raises(PermissionError):
                place.remove_same(file, status, place.taken(file))
        assert os.listdir(tmp_path) == ["a"]

    @pytest.mark.promise
    def test_one_that_was_not_found_for_a_moment_is_not_gone(self, tmp_path, monkeypatch):
        def lose(entry):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")

        (tmp_path / "a").write_text("ours")
        monkeypatch.setattr(tree.Entry, "unlink", lose)
        with tree.Tree(str(tmp_path)) as root:
            file = root.entry("a")
            status = file.lstat()
            with pytest.raises(OSError, match="for a moment"):
                place.remove_same(file, status, place.taken(file))
        assert os.listdir(tmp_path) == ["a"]

    def test_a_full_disk_without_room_for_another_name_is_relieved(self, tmp_path, monkeypatch):
        def full(entry, to):
            raise OSError(errno.ENOSPC, "No space left on device")

        (tmp_path / "a").write_text("ours")
        monkeypatch.setattr(tree.Entry, "move_to", full)
        with tree.Tree(str(tmp_path)) as root:
            file = root.entry("a")
            place.remove_same(file, file.lstat(), place.taken(file))
        assert os.listdir(tmp_path) == []

    @pytest.mark.promise
    @pytest.mark.parametrize("taken", [False, True])
    def test_what_a_kill_left_hidden_gets_a_name_back(self, tmp_path, taken):
        (tmp_path / "a").write_text("ours")
        with tree.Tree(str(tmp_path)) as root:
            file = root.entry("a")
            place.take(file, "us")
            if taken:
                (tmp_path / "a").write_text("next")
            for _ in range(2):
                place.give_back(file, "us")
        expected = {"a": "next", "a.~1~": "ours"} if taken else {"a": "ours"}
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == expected
