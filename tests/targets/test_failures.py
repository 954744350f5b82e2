"""Which errors of reading a file of storage are the file's own."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.files import checksum
from dbbbatch.targets import failures
from dbbbatch.targets.butler import outcomes
from dbbbatch.targets.plugin import NotReady, StoredFile


@pytest.fixture
def file(tmp_path: Path) -> StoredFile:
    path = tmp_path / "storage" / "night" / "a.fits"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"data")
    return StoredFile(1, str(path), "night", "a.fits", 4)


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENAMETOOLONG])
def test_error_of_one_file_is_its_own_while_storage_is_well(file: StoredFile, number: int) -> None:
    failures.require_storage(file, error(number))


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
def test_error_of_every_file_names_storage(file: StoredFile, tmp_path: Path, number: int) -> None:
    with pytest.raises(NotReady, match=f"^{tmp_path}/storage: {os.strerror(number)}"):
        failures.require_storage(file, error(number))


def test_error_is_no_files_own_while_storage_is_away(file: StoredFile, tmp_path: Path) -> None:
    (tmp_path / "storage").rename(tmp_path / "away")
    with pytest.raises(NotReady, match="No such file"):
        failures.require_storage(file, error(errno.EIO))


@pytest.mark.parametrize(
    ("reading", "result"), [(0, "later"), (errno.EIO, "failed"), (errno.ESTALE, None)]
)
def test_disk_of_the_repository_is_to_blame_only_where_the_file_can_be_read(
    file: StoredFile, monkeypatch: pytest.MonkeyPatch, reading: int, result: str | None
) -> None:
    def compute(entry: Any, real: Any = checksum.compute) -> Any:
        if reading:
            raise error(reading)
        return real(entry)

    monkeypatch.setattr(checksum, "compute", compute)
    if result is None:
        with pytest.raises(NotReady):
            outcomes.failed(file, error(errno.EIO), "")
    else:
        assert outcomes.failed(file, error(errno.EIO), "").result.value == result
