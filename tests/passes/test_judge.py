"""What becomes of a file whose path the table knows: a table of cases, without a disk."""

import pytest

from dbbbatch.database.models.storage import FileStatus, Known
from dbbbatch.passes.finder.judge import Verdict, judge

SIZE = 4


@pytest.mark.parametrize(
    ("status", "same", "there", "verdict"),
    [
        (None, False, None, Verdict.ARRIVES),
        (None, False, SIZE, Verdict.ORPHAN),
        ("ARRIVING", True, None, Verdict.BUSY),
        ("STORED", True, SIZE, Verdict.DUPLICATE),
        ("STORED", True, None, Verdict.RETURNS),
        ("STORED", True, SIZE + 1, Verdict.CONFLICT),
        ("STORED", False, SIZE, Verdict.CONFLICT),
        ("STORED", False, None, Verdict.CONFLICT),
        ("MISSING", True, None, Verdict.RETURNS),
        ("MISSING", True, SIZE, Verdict.ORPHAN),
        ("MISSING", False, None, Verdict.CONFLICT),
        ("CORRUPT", True, SIZE, Verdict.CONFLICT),
        ("CORRUPT", False, SIZE, Verdict.CONFLICT),
        ("QUARANTINED", True, None, Verdict.CONFLICT),
        ("FORGOTTEN", True, None, Verdict.RETURNS),
        ("FORGOTTEN", False, None, Verdict.RETURNS),
        ("FORGOTTEN", False, SIZE, Verdict.ORPHAN),
    ],
)
def test_judge(status, same, there, verdict):
    known = Known(1, SIZE, "md5:00", status, "x") if status else None
    assert judge(known, same, there).verdict is verdict


@pytest.mark.parametrize("status", list(FileStatus))
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("there", [None, SIZE, SIZE + 1])
def test_every_conflict_has_its_reason_and_nothing_else_has(status, same, there):
    verdict, reason = judge(Known(1, SIZE, "md5:00", status, "x"), same, there)
    assert bool(reason) == (verdict is Verdict.CONFLICT)


def test_reason_tells_a_lost_file_from_one_that_is_there():
    known = Known(1, SIZE, "md5:00", "STORED", "x")
    assert "has lost" in judge(known, False, None).reason
    assert "holds" in judge(known, False, SIZE).reason
