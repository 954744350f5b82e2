"""Only what nobody but its reader, or root, can have written is obeyed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dbbbatch.files import trust

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")

SOMEBODY = 65534


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file three directories deep that can be trusted."""
    path = tmp_path / "a" / "b" / "dbb.toml"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"content")
    path.chmod(0o644)
    return path


def refused(path: Path) -> trust.Distrusted:
    with pytest.raises(trust.Distrusted) as caught:
        trust.read_trusted(str(path))
    return caught.value


def test_a_file_of_ours_is_read(file: Path) -> None:
    assert trust.read_trusted(str(file)) == b"content"


@pytest.mark.promise
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_file_or_directory_of_another_user_is_refused(file: Path, level: int) -> None:
    what = (file, *file.parents)[level]
    os.chown(what, SOMEBODY, -1)
    error = refused(file)
    assert error.foreign
    assert str(what) in str(error)


@pytest.mark.promise
@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("bit", [0o020, 0o002])
def test_what_others_can_write_is_refused_and_the_advice_helps(
    file: Path, level: int, bit: int
) -> None:
    what = (file, *file.parents)[level]
    what.chmod(what.stat().st_mode | bit)
    advice = str(refused(file)).rpartition(": ")[2]
    assert os.system(advice) == 0
    assert trust.read_trusted(str(file)) == b"content"


@pytest.mark.promise
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_what_is_no_regular_file_is_refused_without_waiting_for_it(
    file: Path, make: Callable[[Path], None]
) -> None:
    file.unlink()
    make(file)
    with pytest.raises((trust.Distrusted, OSError)):
        trust.read_trusted(str(file))


def test_a_pipe_of_ours_is_called_no_regular_file(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)
    with pytest.raises(OSError, match="is no regular file"):
        trust.read_trusted(str(file))


def test_a_file_of_ours_in_a_sticky_directory_is_read(file: Path) -> None:
    file.parent.chmod(0o1777)
    assert trust.read_trusted(str(file)) == b"content"


@pytest.mark.promise
def test_a_file_of_others_in_a_sticky_directory_is_refused(file: Path) -> None:
    file.parent.chmod(0o1777)
    os.chown(file, SOMEBODY, -1)
    assert refused(file).foreign


@pytest.mark.promise
def test_a_link_is_followed_to_where_others_can_write_and_refused(
    file: Path, tmp_path: Path
) -> None:
    file.parent.chmod(0o777)
    for target in (file, file.parent):
        link = tmp_path / "link"
        link.symlink_to(target)
        assert str(file.parent) in str(refused(link if target is file else link / file.name))
        link.unlink()


@pytest.mark.promise
def test_a_link_of_another_user_is_refused(file: Path, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    spool.chmod(0o1777)
    link = spool / "dbb.toml"
    link.symlink_to(os.path.relpath(file, spool))
    assert trust.read_trusted(str(link)) == b"content"
    os.lchown(link, SOMEBODY, -1)
    assert refused(link).foreign


def test_what_is_not_there_is_no_matter_of_trust(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        trust.read_trusted(str(tmp_path / "none"))
