"""What is done below a root stays below it, whatever an attacker does to names meanwhile."""

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbbbatch.files import checksum, place, tree
from dbbbatch.files.tree import Tree
from tests.support.disks import exchange


@pytest.fixture(params=["openat2", "by parts"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "by parts":
        monkeypatch.setattr(tree, "_open_beneath", lambda root, rel: None)
    made = tmp_path / "root"
    (made / "a" / "b").mkdir(parents=True)
    (tmp_path / "outside" / "b").mkdir(parents=True)
    (tmp_path / "outside" / "b" / "secret").write_text("theirs")
    (made / "link").symlink_to(tmp_path / "outside")
    return made


@pytest.fixture
def ours(root: Path) -> Iterator[Tree]:
    with Tree(str(root)) as made:
        yield made


def write(made: Tree, rel: str, content: bytes = b"data") -> None:
    descriptor = made.create(rel)
    os.write(descriptor, content)
    os.close(descriptor)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_files_are_made_looked_at_moved_and_removed(ours: Tree, root: Path) -> None:
    write(ours, "a/new\nline")
    assert stat.S_ISREG(ours.status("a/new\nline").st_mode)
    ours.move("a/new\nline", ours, "a/b/-rf")
    assert ours.status("a/new\nline") is None
    assert (root / "a/b/-rf").read_bytes() == b"data"
    ours.remove("a/b/-rf")
    ours.remove("a/b/-rf")
    ours.remove("gone/x")
    assert ours.names("a/b") == []


@pytest.mark.parametrize("rel", ["../x", "a/../../x", "/etc/x", "a//x", "./x", "a/x/", "a\0b", ""])
def test_a_path_that_is_none_below_the_root_is_refused(ours: Tree, rel: str) -> None:
    for act in (ours.create, ours.open, ours.remove, ours.make_directory, ours.remove_tree):
        with pytest.raises(OSError, match="is no path"):
            act(rel)
    if rel:
        with pytest.raises(OSError, match="is no path"):
            ours.directory(rel)


@pytest.mark.promise
def test_a_directory_that_is_a_link_is_none(ours: Tree, root: Path) -> None:
    write(ours, "a/x")
    for act in (
        lambda: ours.directory("link"),
        lambda: ours.create("link/b/x"),
        lambda: ours.open("link/b/secret"),
        lambda: ours.status("link/b/secret"),
        lambda: ours.names("link/b"),
        lambda: ours.remove("link/b/secret"),
        lambda: ours.remove_tree("link/b"),
        lambda: ours.make_directories("link/b/c"),
        lambda: ours.link_to("t", "link/1"),
        lambda: ours.move("a/x", ours, "link/b/x"),
        lambda: ours.move("link/b/secret", ours, "a/y"),
    ):
        with pytest.raises(NotADirectoryError, match="link"):
            act()
    assert os.listdir(root.parent / "outside" / "b") == ["secret"]


def test_the_root_itself_may_be_reached_by_a_link(ours: Tree, root: Path) -> None:
    with Tree(str(root / "link")) as other:
        assert other.names("b") == ["secret"]


def test_only_a_regular_file_is_opened(ours: Tree, root: Path) -> None:
    os.mkfifo(root / "fifo")
    for rel in ("fifo", "link", "a"):
        with pytest.raises(checksum.NotRegular):
            ours.open(rel)


def test_errors_name_the_whole_path(ours: Tree, root: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        ours.open("a/nothing")
    assert raised.value.filename == str(root / "a/nothing")
    with pytest.raises(FileNotFoundError) as raised:
        ours.directory("nothing/b")
    assert raised.value.filename == str(root / "nothing/b")


class TestMoving:
    def test_nothing_is_replaced(self, ours: Tree, root: Path) -> None:
        write(ours, "one", b"1")
        write(ours, "two", b"2")
        with pytest.raises(FileExistsError):
            ours.move("one", ours, "two")
        assert ((root / "one").read_bytes(), (root / "two").read_bytes()) == (b"1", b"2")

    def test_nothing_is_replaced_where_no_rename_can_refuse(
        self, ours: Tree, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tree, "rename", lambda *_: False)
        write(ours, "one", b"1")
        write(ours, "a/two", b"2")
        with pytest.raises(FileExistsError):
            ours.move("one", ours, "a/two")
        ours.move("one", ours, "a/one")
        assert sorted(os.listdir(root / "a")) == ["b", "one", "two"]
        assert (root / "a/two").read_bytes() == b"2"
        ours.move("a", ours, "c")
        assert (root / "c/one").read_bytes() == b"1"

    def test_what_a_kill_left_under_both_names_is_put_right(self, ours: Tree, root: Path) -> None:
        write(ours, "one")
        os.link(root / "one", root / "a/one")
        ours.move("one", ours, "a/one")
        assert ours.status("one") is None

    def test_a_file_is_not_removed_because_two_paths_lead_to_it(
        self, ours: Tree, root: Path
    ) -> None:
        write(ours, "one")
        os.link(root / "one", root / "a/one")
        with Tree(str(root)) as same, pytest.raises(FileExistsError):
            ours.move("one", same, "one")
        assert ours.status("one") is not None

    def test_from_one_root_to_another(self, ours: Tree, tmp_path: Path) -> None:
        write(ours, "one")
        with Tree(str(tmp_path / "outside")) as other:
            ours.move("one", other, "b/one")
        assert (tmp_path / "outside/b/one").read_bytes() == b"data"


class TestDirectories:
    def test_are_made_with_the_permissions_of_the_one_above(self, ours: Tree, root: Path) -> None:
        (root / "a").chmod(0o3775)
        before = os.umask(0)
        try:
            ours.make_directories("a/c/d")
            ours.make_directories("a/c/d")
        finally:
            os.umask(before)
        assert {oct((root / rel).stat().st_mode & 0o7777) for rel in ("a/c", "a/c/d")} == {"0o3775"}

    def test_something_else_with_the_name_of_one_is_told(self, ours: Tree) -> None:
        write(ours, "file")
        for rel in ("file", "file/c", "link", "link/b/c"):
            with pytest.raises(NotADirectoryError):
                ours.make_directories(rel)

    def test_a_tree_is_removed_and_what_its_links_lead_to_is_not(
        self, ours: Tree, root: Path
    ) -> None:
        (root / "a/b/link").symlink_to(root.parent / "outside")
        write(ours, "a/b/x")
        ours.remove_tree("a")
        ours.remove_tree("a")
        assert os.listdir(root) == ["link"]
        assert (root.parent / "outside/b/secret").exists()

    def test_few_stay_open(self, root: Path) -> None:
        before = descriptors()
        with Tree(str(root), keep=3) as made:
            for number in range(10):
                made.make_directory(str(number), 0o755)
                write(made, f"{number}/x")
            made.sync(["", *map(str, range(10))])
            assert descriptors() - before == 4
        assert descriptors() == before

    def test_one_that_another_thread_lets_go_stays_open_while_it_is_used(
        self, ours: Tree, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def directory(made: Tree, rel: str = "", real: object = Tree.directory) -> tree.Directory:
            found = real(made, rel)  # type: ignore[operator]
            made.forget()  # as the other thread does
            return found  # type: ignore[no-any-return]

        monkeypatch.setattr(Tree, "directory", directory)
        file = ours.entry("a/x")
        os.close(file.create())
        os.close(file.open())
        file.lstat()
        file.move_to(ours.entry("a/b/x"))
        place.sync_file(ours.entry("a/b/x"))
        ours.link_to("t", "a/b/l")
        ours.sync(["a", "a/b"])
        ours.entry("a/b/x").unlink()
        ours.remove_tree("a/b")
        assert ours.names("a") == []

    def test_errors_leave_none_open(self, ours: Tree) -> None:
        before = descriptors()
        for rel in ("nothing/x", "link/x", "a/b/x/y"):
            with pytest.raises(OSError, match="o"):
                ours.directory(rel)
        assert descriptors() == before


class TestAttacks:
    """Somebody who may write in the root exchanges its directories while we work."""

    @pytest.mark.promise
    def test_a_directory_exchanged_between_look_and_rename_leads_nowhere(
        self, ours: Tree, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def attacked(*arguments: object, real: object = tree.rename) -> bool:
            exchange(root / "a", root / "link")
            return real(*arguments)  # type: ignore[operator]

        write(ours, "one")
        monkeypatch.setattr(tree, "rename", attacked)
        ours.move("one", ours, "a/b/one")
        # The directory has another name now, and has the file; the link has led nowhere.
        assert (root / "link/b/one").exists()
        assert os.listdir(root.parent / "outside/b") == ["secret"]

    @pytest.mark.promise
    def test_a_private_file_is_not_taken_through_an_exchanged_directory(
        self, ours: Tree, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def attacked(*arguments: object, real: object = tree.rename) -> bool:
            exchange(root / "a", root / "link")
            return real(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(tree, "rename", attacked)
        with pytest.raises(FileNotFoundError):
            ours.move("a/b/secret", ours, "taken")
        assert (root.parent / "outside/b/secret").read_text() == "theirs"

    @pytest.mark.promise
    def test_a_directory_that_was_moved_away_is_told_when_it_is_made_durable(
        self, ours: Tree, root: Path
    ) -> None:
        write(ours, "a/b/one")
        exchange(root / "a", root / "link")
        with pytest.raises(NotADirectoryError):
            ours.sync(["a/b"])
        exchange(root / "a", root / "link")
        ours.sync(["a/b"])
        (root / "c").mkdir()
        exchange(root / "a/b", root / "c")
        with pytest.raises(OSError, match="is another directory") as raised:
            ours.sync(["a/b"])
        assert raised.value.errno == errno.ESTALE

    @pytest.mark.promise
    def test_a_directory_that_was_moved_away_is_told_though_it_did_not_stay_open(
        self, root: Path
    ) -> None:
        (root / "c").mkdir()
        with Tree(str(root), keep=1) as made:
            write(made, "a/one")
            write(made, "c/one")
            exchange(root / "a", root / "c")
            for look in (made.directory, lambda rel: made.require_same([rel])):
                with pytest.raises(OSError, match="is another directory") as raised:
                    look("a")
                assert raised.value.errno == errno.ESTALE
            made.forget()
            made.require_same(["a"])

    @pytest.mark.promise
    def test_an_attacker_who_never_rests_gets_nothing_outside(self, root: Path) -> None:
        done = threading.Event()

        def attack() -> None:
            while not done.is_set():
                exchange(root / "a", root / "link")

        thread = threading.Thread(target=attack)
        thread.start()
        moved = 0
        try:
            with Tree(str(root)) as made:
                for number in range(500):
                    write(made, f"{number}")
                    made.forget()
                    try:
                        made.move(f"{number}", made, f"a/b/{number}")
                        moved += 1
                    except (NotADirectoryError, FileNotFoundError):
                        made.remove(f"{number}")
        finally:
            done.set()
            thread.join()
        inside = root / ("link" if (root / "a").is_symlink() else "a")
        assert len(os.listdir(inside / "b")) == moved
        assert os.listdir(root.parent / "outside/b") == ["secret"]
