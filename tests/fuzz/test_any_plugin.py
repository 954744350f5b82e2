"""A plugin may answer anything, and a FITS file may hold anything: each file gets its outcome."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbbbatch.database import connect
from dbbbatch.database.models.statuses import IngestStatus
from dbbbatch.targets import pool, registry, worker
from dbbbatch.targets.butler import fits
from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome, Plugin, Result
from tests.support.fuzz import InThread, fuzzed
from tests.support.ingesting import Ingesting
from tests.support.site import Site

pytestmark = pytest.mark.promise


class Unsayable(Exception):
    """An error that cannot be written."""

    def __str__(self) -> str:
        raise ValueError


texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["\ud800", "a\0b", "\x1b[2J", "x" * 100_000, "\u202e\n"]),
    st.binary(max_size=5),
    st.none(),
)
#: What a plugin says of a file: an outcome, an error, or something else.
answers = st.one_of(
    st.builds(
        Outcome,
        st.sampled_from([0, 0, 0, 0, 0, 0, -1, 4, True, 1.0, "1", None, 2**70]),
        st.sampled_from([Result.DONE, Result.DONE, *Result, "done", None]),
        texts,
        texts,
        st.one_of(st.frozensets(texts, max_size=2), st.none(), st.just("ab")),
        st.one_of(st.dictionaries(texts, texts, max_size=2), st.none()),
    ),
    st.builds(
        lambda kind, text: kind(text),
        st.sampled_from([NotReady, Misconfigured, ValueError, OSError, SystemError]),
        texts,
    ),
    st.just(Unsayable()),
    st.just("no outcome"),
)


class Answering(Plugin):
    """Says what was decided before; each file may be asked for more than once."""

    script: list[Any]
    said_version: Any

    def version(self) -> str:
        return self.said_version

    def ingest(self, files: list[Any]) -> Iterator[Outcome]:
        for file in files:
            answer = self.script.pop(0) if self.script else Outcome(file.number, Result.DONE)
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, Outcome) and answer.number == 0:
                answer = Outcome(file.number, *[getattr(answer, name) for name in FIELDS])
            yield answer


FIELDS = ("result", "message", "version", "parts_done", "checksums")


@pytest.fixture
def ingesting(site: Site) -> Iterator[Ingesting]:
    yield Ingesting(site)
    connect.disconnect()


@fuzzed(15)
@given(script=st.lists(answers, max_size=6), version=texts, one_at_a_time=st.booleans())
def test_whatever_a_plugin_answers_each_file_gets_an_outcome(
    ingesting: Ingesting, script: list[Any], version: Any, one_at_a_time: bool
) -> None:
    Answering.script, Answering.said_version = list(script), version
    Answering.one_at_a_time = one_at_a_time
    ingesting.configure(retry_wait=0)
    connect.write(empty)
    ingesting.store("a", "b", "c")
    with (
        mock.patch.object(registry, "find", return_value=Answering),
        mock.patch.object(pool, "Worker", InThread),
        mock.patch.object(worker, "_started_by", return_value=[]),
    ):
        for _ in range(3):
            assert ingesting.run() in (0, 1, 75, 78)
            assert set(ingesting.statuses().values()) <= {*map(str, IngestStatus)} - {"PENDING"}
        Answering.script, Answering.said_version = [], "1"
        ingesting.wait_is_over()
        assert ingesting.run() in (0, 1)
        for name, status in ingesting.statuses().items():
            assert status in ("SUCCESS", "INVALID", "FAILURE")
            assert ingesting.events(name)[-1] == status


def empty() -> None:
    for table in ("ingest_event", "ingest_state", "file_checksum", "ingest_claim", "file"):
        connect.execute(f"DELETE FROM {table}")


CARDS = [
    "SIMPLE  =                    T",
    "BITPIX  =                    8",
    "NAXIS   =                    0",
    "NAXIS   =                    2",
    "NAXIS1  =                   10",
    "NAXIS2  =           9999999999",
    "NAXIS1  =                   -1",
    "EXTEND  =                    T",
    "NEXTEND =                   99",
    "XTENSION= 'IMAGE   '",
    "PCOUNT  =                   -5",
    "GCOUNT  =                    x",
    "BITPIX  = 1_6",
    "NAXIS   = 999999999999999999999",
    "INSTRUME= 'LATISS  '",
    "INSTRUME= 1E999",
    "TELESCOP= 'LSST AuxTel'",
    "DATE-OBS= '2026-13-45T99:99:99'",
    "MJD-OBS =                  NaN",
    "OBSID   = 'AT_O_20261124_000001'",
    "DAYOBS  = '20261124'",
    "SEQNUM  =        1E400",
    "END",
    "CONTINUE  'x'",
    "HIERARCH a b c = 1",
    "EXPTIME = ",
    "= = = =",
    "GROUPS  =                    T",
    "IMGTYPE = 'BIAS",
]
cards = st.one_of(
    st.sampled_from(CARDS).map(str.encode),
    st.binary(max_size=80),
    st.from_regex(rb"[A-Z-]{1,8}= ('[ -~]{0,8}'|[-0-9.E]{1,9}|[TF])", fullmatch=True),
).map(lambda card: card[:80].ljust(80))


@st.composite
def fits_like(draw) -> bytes:
    """Draw what begins like a FITS file, or nearly."""
    content = b""
    for number in range(draw(st.integers(1, 3))):
        first = b"XTENSION= 'IMAGE   '" if number else b"SIMPLE  =                    T"
        sizes = [b"BITPIX  = 8", b"NAXIS   = 0"] if draw(st.booleans()) else []
        header = b"".join(card.ljust(80) for card in (first, *sizes))
        header += b"".join(draw(st.lists(cards, max_size=8)))
        header += b"END".ljust(80) if draw(st.integers(0, 4)) else b""
        content += header + b" " * (-len(header) % 2880)
    return content[: draw(st.sampled_from([len(content), len(content), 2880, 1000, 0]))]


@fuzzed(40)
@given(fits_like())
def test_any_header_is_translated_or_refused_with_a_reason(content: bytes) -> None:
    headers = pytest.importorskip(
        "dbbbatch.targets.butler.headers", exc_type=ImportError, reason="no metadata translators"
    )
    headers.load_translators()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "a.fits")
        path.write_bytes(content)
        with suppress(fits.Unusable):
            assert headers.observations(str(path))


@fuzzed(60)
@given(st.one_of(fits_like(), st.binary(max_size=6000)))
def test_the_parts_of_any_file_lie_in_it(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "a.fits")
        path.write_bytes(content)
        try:
            found = fits.walk(str(path))
        except fits.Unusable:
            return
        assert found[0].at == 0
        for hdu in found:
            assert 0 <= hdu.at < hdu.end <= len(content)
