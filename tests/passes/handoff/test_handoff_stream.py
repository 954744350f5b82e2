"""Who is to blame where the built-in stream brings a file not, or not whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.areas import buffer
from dbbbatch.areas.endpoint import session, transfer_stream
from dbbbatch.areas.endpoint.line import Line
from dbbbatch.process import run
from tests.support import endpoints
from tests.support.handing import make_pass, receiving, rows, statuses, wait_over
from tests.support.site import Site, tree

pytestmark = pytest.mark.promise

KEYS: dict[str, Any] = {"min_free": 0, "streams": 1, "max_attempts": 2}
Program = Callable[[str, str], Path]
TAR = shutil.which("tar")


@pytest.fixture
def backend() -> str:
    return "sqlite"


@pytest.fixture
def site(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(Site, "by_stream", True)
    return site.write(handoff=KEYS)


def attempts(site: Site) -> dict[str, int]:
    return dict(rows(site, "filename, attempts"))


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the name "bad" cannot be opened, also by root."""
    real = buffer.open_version

    def open_version(file: Any, row: Any) -> int:
        if row.filename == "bad":
            raise PermissionError(13, "Permission denied", file.path)
        return real(file, row)

    monkeypatch.setattr(transfer_stream.buffer, "open_version", open_version)


@pytest.mark.usefixtures("unreadable")
@pytest.mark.parametrize("size", [4, 2 << 20])
def test_a_file_that_cannot_be_read_is_charged_at_once_and_the_others_go(
    site: Site, size: int
) -> None:
    site.put_all(["night/a", "night/c"])
    site.put("night/bad", b"x" * size)
    assert make_pass(site) == 1
    assert statuses(site) == {"night/a": "HELD", "night/bad": "FOUND", "night/c": "HELD"}
    assert attempts(site) == {"a": 0, "bad": 1, "c": 0}
    wait_over(site)
    assert make_pass(site) == 1
    assert statuses(site)["night/bad"] == "QUARANTINED"
    assert "cannot be read: Permission denied" in tree(site.quarantine)["night/bad.reason"].decode()


@pytest.mark.usefixtures("unreadable")
def test_a_file_that_cannot_be_read_is_charged_also_where_it_is_alone(site: Site) -> None:
    site.put("night/bad")
    assert make_pass(site) == 1
    assert attempts(site) == {"bad": 1}


def test_a_file_that_grows_while_it_is_sent_is_left_out_and_sent_by_the_next_pass(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = site.put("night/b", b"b" * 1_000_000)
    site.put_all(["night/a", "night/c"])
    real = Line.pace

    def pace(self: Line, size_bytes: int) -> None:
        if path.exists() and path.stat().st_size == 1_000_000:
            with path.open("ab") as file:
                file.write(b"more")
        real(self, size_bytes)

    with monkeypatch.context() as patched:
        patched.setattr(Line, "pace", pace)
        assert make_pass(site) == 0
    assert set(tree(site.far_buffer)) == {"night/a", "night/c"}
    assert make_pass(site) == 0
    assert tree(site.far_buffer)["night/b"] == b"b" * 1_000_000 + b"more"
    assert not tree(site.buffer)


def refusing(program: Program, name: str, words: str = "Cannot open: File name too long") -> None:
    """Let the far end's tar unpack all but one name, as GNU tar does where it is too long."""
    program(
        "tar",
        f'case $* in *-x*) {TAR} "$@" --exclude="./{name}" --exclude="{name}"; '
        f'echo "tar: {name}: {words}" >&2; exit 2;; esac; exec {TAR} "$@"',
    )


def test_the_one_file_that_the_far_end_cannot_take_is_charged(site: Site, program: Program) -> None:
    site.put_all([*(f"night/{number:02}" for number in range(12)), "night/culprit"])
    refusing(program, "night/culprit")
    assert make_pass(site) == 1
    wait_over(site)
    make_pass(site)
    # Alone it shows nothing: another file must arrive in the same pass.
    site.put("night/good")
    wait_over(site)
    make_pass(site)
    found = statuses(site)
    assert found.pop("night/culprit") in ("FOUND", "QUARANTINED")
    assert set(found.values()) == {"HELD"}
    assert attempts(site)["culprit"] > 0
    assert "File name too long" in rows(site, "error", "handoff_file WHERE status <> 'HELD'")[0]


def test_a_file_that_does_not_arrive_is_not_charged_where_none_does(
    site: Site, program: Program
) -> None:
    site.put("night/culprit")
    refusing(program, "night/culprit")
    assert make_pass(site) == 75
    assert attempts(site) == {"culprit": 0}
    assert statuses(site) == {"night/culprit": "FOUND"}


@pytest.mark.parametrize("ends", ["kill -9 $$", "exit 1"])
def test_a_tar_that_unpacks_nothing_charges_no_file(
    site: Site, program: Program, ends: str
) -> None:
    site.put_all(["night/1", "night/2", "day/3"])
    # The trial with a file of ours goes well.
    program("tar", f'case $* in *{site.staging}/*) {ends};; esac; exec {TAR} "$@"')
    assert make_pass(site) == 75
    assert set(attempts(site).values()) == {0}
    assert tree(site.far_buffer) == {}
    (Path(os.environ["PATH"].split(":")[0]) / "tar").unlink()
    wait_over(site)
    assert make_pass(site) == 0
    assert set(statuses(site).values()) == {"HELD"}


def test_a_full_disk_there_is_told_and_charges_no_file(
    site: Site, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    site.put("night/1")
    words = "Wrote only 512 of 10240 bytes: No space left on device"
    refusing(program, "night/1", words)
    assert make_pass(site) == 75
    assert "No space left on device" in capsys.readouterr().err
    assert attempts(site) == {"1": 0}


def test_a_far_end_without_tar_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.put("night/1")
    monkeypatch.setattr(session.EndpointAddress, "further_tools", "no-such-tar")
    assert make_pass(site) == 75
    assert "there is no command no-such-tar" in capsys.readouterr().err


def test_a_far_end_that_takes_nothing_more_is_given_up(
    site: Site, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    site.put("night/1", b"x" * (12 << 20))
    site.write(handoff={**KEYS, "timeout": "1s"})
    tool = program("tar", f'case $* in *{site.staging}/*) exec sleep 600;; esac; exec {TAR} "$@"')
    assert make_pass(site) == 75
    assert "has taken nothing for 1 s" in capsys.readouterr().err
    assert attempts(site) == {"1": 0}
    tool.unlink()
    site.write(handoff=KEYS)
    assert make_pass(site) == 0
    assert list(site.staging.iterdir()) == []


def test_a_line_that_breaks_within_the_stream_charges_no_file(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.put_all({f"night/{number}": b"x" * 500_000 for number in range(6)})
    real, blocks = Line.pace, []

    def pace(self: Line, size_bytes: int) -> None:
        blocks.append(size_bytes)
        if len(blocks) == 6:
            from dbbbatch.process import run

            run.end_all()
        real(self, size_bytes)

    with monkeypatch.context() as patched:
        patched.setattr(Line, "pace", pace)
        assert make_pass(site) == 75
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert set(attempts(site).values()) == {0}
    assert tree(site.far_buffer) == {}
    assert make_pass(site) == 0
    assert set(statuses(site).values()) == {"HELD"}
    assert list(site.staging.iterdir()) == []


@pytest.mark.parametrize("rate", [0, 1])
def test_without_a_slowest_rate_a_receiver_takes_long_files(
    site: Site, capsys: pytest.CaptureFixture[str], rate: int
) -> None:
    endpoint = {"remote": receiving(site.far_buffer.parent)}
    site.write(handoff={**KEYS, "min_rate": rate}, endpoint=endpoint)
    os.truncate(site.put("long"), 10_000_000)
    assert (make_pass(site), capsys.readouterr().err) == (0, "")
    assert statuses(site) == {"long": "HELD"}


def test_a_receiver_of_another_version_says_so(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_LONGEST_LIMIT", 10**9)
    endpoint = {"remote": receiving(site.far_buffer.parent)}
    site.write(handoff={**KEYS, "timeout": "1000 d"}, endpoint=endpoint)
    site.put("a")
    assert make_pass(site) == 75
    assert "a request is not understood here" in capsys.readouterr().err
    assert attempts(site) == {"a": 0}


# A file that is broken off is continued.


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function: after so many bytes the line breaks, once."""

    def breaks(after: int) -> None:
        real, left = Line.pace, after

        def pace(line: Line, size_bytes: int) -> None:
            nonlocal left
            left -= size_bytes
            if left < 0:
                monkeypatch.setattr(Line, "pace", real)
                run.end_all()
            real(line, size_bytes)

        monkeypatch.setattr(Line, "pace", pace)

    return breaks


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of what was sent of files that were continued."""
    found: list[int] = []
    real = session.Session.send_rest

    def send_rest(self: session.Session, attempt: str, file: Any, rest: Any, *more: Any) -> Any:
        found.append(rest.size_bytes)
        return real(self, attempt, file, rest, *more)

    monkeypatch.setattr(session.Session, "send_rest", send_rest)
    return found


def known_before(site: Site, how: str) -> None:
    """Deliver the file once, so that its checksum is known when it is sent."""
    if how == "fresh":
        return
    assert make_pass(site) == 0
    if how == "resent":
        (site.far_buffer / "night/long").unlink()
        assert site.run("dbb", "resend", "handoff.latiss", "night/long").code == 0


@pytest.mark.parametrize("how", ["fresh", "resent", "second endpoint"])
def test_a_long_file_that_was_broken_off_is_continued(
    site: Site, breaking: Callable[[int], None], rests: list[int], how: str
) -> None:
    name, buffer, staging = endpoints.FIRST, site.far_buffer, site.staging
    keys = {**KEYS, "resume_from": 1_000_000}
    if how == "second endpoint":
        endpoints.with_base(site, handoff=keys)
        name, buffer = endpoints.BASE, endpoints.base(site)
        staging = endpoints.base(site, "staging")
    else:
        site.write(handoff=keys)
    content = os.urandom(8_000_000)
    site.put("night/long", content)
    known_before(site, how)
    for after in (3_000_000, 2_500_000):
        breaking(after)
        assert endpoints.make_pass(site, name) == 75
        wait_over(site)
    assert endpoints.make_pass(site, name) == 0
    assert tree(buffer) == {"night/long": content}
    assert set(statuses(site).values()) == {"HELD"}
    assert len(rests) == 2
    assert 0 < rests[1] < rests[0] < 8_000_000
    assert os.listdir(staging) == []


def test_a_long_file_that_is_another_by_then_is_sent_from_its_beginning(
    site: Site, breaking: Callable[[int], None], rests: list[int]
) -> None:
    site.write(handoff={**KEYS, "resume_from": 1_000_000})
    path = site.put("night/long", b"x" * 8_000_000)
    breaking(3_000_000)
    assert make_pass(site) == 75
    status = path.stat()
    path.write_bytes(b"y" * 8_000_000)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    wait_over(site)
    assert make_pass(site) == 0
    assert tree(site.far_buffer) == {"night/long": b"y" * 8_000_000}
    assert rests == []


def test_a_short_file_is_sent_from_its_beginning(
    site: Site, breaking: Callable[[int], None], rests: list[int]
) -> None:
    site.put("night/short", b"x" * 8_000_000)
    breaking(3_000_000)
    assert make_pass(site) == 75
    wait_over(site)
    assert make_pass(site) == 0
    assert (rests, os.listdir(site.staging)) == ([], [])
