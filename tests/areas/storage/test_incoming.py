"""What becomes of a file whose path the table knows: a table of cases, without a disk."""

import pytest

from dbbbatch.areas.storage.incoming import Fate, decide
from dbbbatch.database.models.file import FileRow
from dbbbatch.database.models.statuses import FileStatus

SIZE = 4


@pytest.mark.parametrize(
    ("status", "same", "there", "fate"),
    [
        (None, False, None, Fate.ARRIVES),
        (None, False, SIZE, Fate.ORPHAN),
        ("ARRIVING", True, None, Fate.BUSY),
        ("STORED", True, SIZE, Fate.DUPLICATE),
        ("STORED", True, None, Fate.RETURNS),
        ("STORED", True, SIZE + 1, Fate.CONFLICT),
        ("STORED", False, SIZE, Fate.CONFLICT),
        ("STORED", False, None, Fate.CONFLICT),
        ("MISSING", True, None, Fate.RETURNS),
        ("MISSING", True, SIZE, Fate.ORPHAN),
        ("MISSING", False, None, Fate.CONFLICT),
        ("CORRUPT", True, SIZE, Fate.CONFLICT),
        ("CORRUPT", False, SIZE, Fate.CONFLICT),
        ("QUARANTINED", True, None, Fate.CONFLICT),
        ("FORGOTTEN", True, None, Fate.RETURNS),
        ("FORGOTTEN", False, None, Fate.RETURNS),
        ("FORGOTTEN", False, SIZE, Fate.ORPHAN),
    ],
)
def test_decide(status, same, there, fate):
    known = FileRow("", "x", SIZE, "md5:00", 1, 1, status) if status else None
    assert decide(known, same, there).fate is fate


@pytest.mark.parametrize("status", list(FileStatus))
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("there", [None, SIZE, SIZE + 1])
def test_every_conflict_has_its_reason_and_nothing_else_has(status, same, there):
    fate, reason, _ = decide(FileRow("", "x", SIZE, "md5:00", 1, 1, status), same, there)
    assert bool(reason) == (fate is Fate.CONFLICT)


def test_reason_tells_a_lost_file_from_one_that_is_there():
    known = FileRow("", "x", SIZE, "md5:00", 1, 1, "STORED")
    assert "has lost" in decide(known, False, None).reason
    assert "holds" in decide(known, False, SIZE).reason
