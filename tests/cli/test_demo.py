"""`dbb demo` shows the whole flow, and can be run again."""

from pathlib import Path

import pytest

from tests.support.scripts import Ran, run_script


def demo(directory: Path) -> Ran:
    return run_script("dbb", "demo", str(directory))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    directory = tmp_path_factory.mktemp("demo") / "sites"
    return directory, demo(directory)


def test_it_ends_well_and_says_nothing_on_stderr(ran: tuple[Path, Ran]) -> None:
    _, (code, _, err) = ran
    assert (code, err) == (0, "")


def test_files_reach_holding_storage_and_both_targets(ran: tuple[Path, Ran]) -> None:
    directory, _ = ran

    def names(place: str) -> list[str]:
        return sorted(path.name for path in (directory / place).rglob("*.fits"))

    assert len(names("summit/holding")) == 8
    assert names("summit/buffer") == names("archive/buffer") == []
    assert names("archive/storage") == names("archive/by-night") == names("summit/holding")
    listed = (directory / "archive" / "catalog.txt").read_text().split()
    assert len(listed) == 6


def test_the_files_that_broke_off_are_in_trouble(ran: tuple[Path, Ran]) -> None:
    _, (_, out, _) = ran
    assert "not a complete FITS file" in out


def test_it_shows_one_files_history(ran: tuple[Path, Ran]) -> None:
    _, (_, out, _) = ran
    history = out.partition("History")[2]
    for step in ("found in the buffer", "delivered", "stored in", "SUCCESS"):
        assert step in history


def test_what_it_says_to_try_works(ran: tuple[Path, Ran]) -> None:
    directory, (_, out, _) = ran
    line = next(line for line in out.splitlines() if "dbb history" in line)
    name = line.split()[-1]
    code, shown, _ = run_script("dbb", "history", "-c", str(directory / "archive.toml"), name)
    assert code == 0
    assert "FAILURE" in shown


def test_it_can_be_run_again(tmp_path: Path) -> None:
    first, second = demo(tmp_path / "sites"), demo(tmp_path / "sites")
    assert (first.code, second.code, second.err) == (0, 0, "")
    held = [path.name for path in (tmp_path / "sites" / "summit" / "holding").rglob("*.fits")]
    assert len(held) == 16


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, out, err = demo(tmp_path / "file" / "sites")
    assert (code, out, err.count("\n")) == (64, "", 1)
    assert f"{tmp_path}/file/sites: Not a directory; name another directory" in err


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    code, _, err = demo(tmp_path)
    assert code == 64
    assert "name another directory" in err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
