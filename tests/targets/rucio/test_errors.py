"""What an error of Rucio means."""

from __future__ import annotations

import pytest
import requests
from rucio.common import exception

from dbbbatch.targets.rucio.errors import Sort, forbids_slash, said, sort


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exception.ServerConnectionException("refused"), Sort.AWAY),
        (requests.exceptions.ConnectionError("refused"), Sort.AWAY),
        (requests.exceptions.ReadTimeout("60 s"), Sort.AWAY),
        (exception.RucioException("http status code: 503 ('unavailable')"), Sort.AWAY),
        (exception.RucioException("http status code: 429 ('busy')"), Sort.AWAY),
        (exception.CannotAuthenticate("token"), Sort.AWAY),
        (exception.InsufficientAccountLimit("quota"), Sort.AWAY),
        (exception.DatabaseException("(sqlite3.OperationalError) database is locked"), Sort.BUSY),
        (exception.RucioException("(psycopg.errors.UniqueViolation) DIDS_PK"), Sort.BUSY),
        (exception.DatabaseException("(psycopg.OperationalError) server closed"), Sort.AWAY),
        (exception.RSENotFound("X"), Sort.WRONG),
        (exception.ScopeNotFound("X"), Sort.WRONG),
        (exception.AccessDenied("X"), Sort.WRONG),
        (exception.InvalidMetadata("X"), Sort.WRONG),
        (exception.InvalidObject("name"), Sort.NEVER),
        (exception.FileConsistencyMismatch("bytes"), Sort.REFUSED),
        (exception.RSEFileNameNotSupported("pfn"), Sort.REFUSED),
        (exception.RucioException("http status code: 500 ('oops')"), Sort.REFUSED),
    ],
)
def test_sort(error: Exception, expected: Sort) -> None:
    assert sort(error) is expected


def test_said_is_one_line_with_the_name_of_the_error() -> None:
    text = said(exception.RSENotFound("RSE 'X'\ncannot be found"))
    assert text.startswith("RSENotFound: ")
    assert text.endswith("RSE 'X' cannot be found")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [(r"^[A-Za-z0-9][A-Za-z0-9\.\-\_]*$", True), (r"^[/A-Za-z0-9][/A-Za-z0-9.\-_]*$", False)],
)
def test_pattern_in_a_refusal_tells_whether_slashes_are_allowed(
    pattern: str, expected: bool
) -> None:
    error = exception.InvalidObject(f"Problem validating dids: 'n/a b' does not match '{pattern}'")
    assert forbids_slash(said(error)) is expected
    assert not forbids_slash(said(exception.InvalidObject("too long")))
