"""Sessions of a pass: how many are opened, when, and what the built-in stream has of them."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.areas.endpoint import session, transfer, transfer_stream
from dbbbatch.areas.endpoint.stream import MOST_AT_ONCE
from dbbbatch.passes.handoff import pace, scheduler, streams
from dbbbatch.process import run
from tests.support.handing import make_pass, rows, statuses
from tests.support.site import Site, tree

Program = Callable[[str, str], Path]


@pytest.fixture
def backend() -> str:
    return "sqlite"


@pytest.fixture
def site(site: Site, program: Program, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return a site whose far end counts how often it is connected."""
    program("far", f'echo >>{site.root}/opened; exec sh -c "$1"')
    monkeypatch.setattr(Site, "by_stream", True)
    return configured(site)


def configured(site: Site, **handoff: Any) -> Site:
    return site.write(handoff={"min_free": 0, **handoff}, endpoint={"remote": "far {command}"})


def opened(site: Site) -> int:
    return len((site.root / "opened").read_text())


def test_a_small_pass_opens_one_session(site: Site) -> None:
    site.put_all(f"night/{number}" for number in range(20))
    assert make_pass(site) == 0
    assert opened(site) == 1
    assert set(statuses(site).values()) == {"HELD"}


def test_a_long_line_gets_further_sessions_while_the_first_is_opened(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None of them is there before all of them have been asked for.
    together = threading.Barrier(6)
    real = session.Session.open

    def open_all(self: session.Session) -> None:
        if not self.is_open:
            together.wait(30)
        real(self)

    monkeypatch.setattr(session.Session, "open", open_all)
    monkeypatch.setattr(streams, "_LONG_CONNECTING", 0.01)
    monkeypatch.setattr(streams, "_ROUND_TRIPS_OF_SSH", 0.05)
    site.put_all(f"night/{number:03}" for number in range(200))
    assert make_pass(site) == 0
    assert opened(site) == 6
    assert set(statuses(site).values()) == {"HELD"}


def test_as_many_streams_as_are_configured_are_used(site: Site) -> None:
    configured(site, streams=1, batch_files=2)
    site.put_all(f"night/{number}" for number in range(9))
    assert make_pass(site) == 0
    assert opened(site) == 1
    assert len(rows(site, "id", "transfer_batch")) == 5


def test_the_next_batch_is_sent_while_the_far_end_verifies_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(site, batch_files=1)
    second = threading.Event()
    real_send, real_verify = transfer_stream.TransferStream.send, session.Session.verify

    def send(self: Any, batch: Any, items: Any, result: Any) -> Any:
        if items[0].rel == "2":
            second.set()
        return real_send(self, batch, items, result)

    def verify(self: Any, attempt: str, files: Any, *more: Any) -> Any:
        if files[0].rel == "1":
            assert second.wait(30)
        return real_verify(self, attempt, files, *more)

    monkeypatch.setattr(transfer_stream.TransferStream, "send", send)
    monkeypatch.setattr(session.Session, "verify", verify)
    site.put_all(["1", "2"])
    assert make_pass(site) == 0
    assert statuses(site) == {"1": "HELD", "2": "HELD"}


def test_long_files_do_not_hold_up_the_short_ones_behind_them(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_FIRST_BYTES", 1000)
    configured(site, batch_bytes=1000)
    short_placed = threading.Event()
    began: list[str] = []
    real_send, real_place = transfer_stream.TransferStream.send, transfer.Sender.place

    def send(self: Any, batch: Any, items: Any, result: Any) -> Any:
        began.append(items[0].rel)
        if batch.long:
            assert short_placed.wait(30)
        return real_send(self, batch, items, result)

    def place(self: Any, attempt: str, items: Any, result: Any) -> None:
        real_place(self, attempt, items, result)
        if items[0].rel == "short 2":
            short_placed.set()

    monkeypatch.setattr(transfer_stream.TransferStream, "send", send)
    monkeypatch.setattr(transfer.Sender, "place", place)
    names = [*(f"long {number}" for number in range(4)), "short 1", "short 2"]
    for when, name in enumerate(names):
        size = 2000 if name.startswith("long") else 900
        os.utime(site.put(name, name.encode() * (size // len(name))), (1e9 + when, 1e9 + when))
    assert make_pass(site) == 0
    assert set(statuses(site).values()) == {"HELD"}
    assert [name for name in began if name.startswith("long")] == names[:4]


def test_a_limit_also_leaves_out_long_files_that_wait(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_FIRST_BYTES", 1000)
    configured(site, batch_bytes=1000)
    site.put_all({f"long {number}": b"x" * 2000 for number in range(5)})
    assert make_pass(site, limit=2) == 0
    assert sorted(statuses(site).values()) == ["FOUND"] * 3 + ["HELD"] * 2


def test_nothing_is_placed_before_what_was_read_is_recorded(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, bytes]] = []
    real = scheduler.Delivery.record_read

    def record_read(self: Any, result: Any) -> None:
        seen.append(tree(site.far_buffer))
        real(self, result)
        seen.append(tree(site.far_buffer))

    monkeypatch.setattr(scheduler.Delivery, "record_read", record_read)
    site.put_all(["a/1", "a/2"])
    assert make_pass(site) == 0
    assert seen == [{}, {}]
    assert len(tree(site.far_buffer)) == 2


def test_what_was_read_is_not_recorded_and_nothing_is_placed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record_read(self: Any, result: Any) -> None:
        raise RuntimeError("the pass ends here")

    site.put_all(["a/1", "a/2"])
    with monkeypatch.context() as patched:
        patched.setattr(scheduler.Delivery, "record_read", record_read)
        assert make_pass(site) == 70
    assert tree(site.far_buffer) == {}
    assert rows(site, "checksum") == [None, None]
    assert make_pass(site) == 0
    assert set(tree(site.far_buffer)) == set(tree(site.holding)) == {"a/1", "a/2"}
    assert list(site.staging.iterdir()) == []


def test_what_was_read_is_recorded_before_what_came_of_it(
    site: Site, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One file is there already, and the other does not arrive: nothing is placed, so the batch
    # does not wait for the record of what was read.
    real = streams.Streams.finished

    def finished(self: Any) -> Any:
        wait(self._batches)
        return real(self)

    monkeypatch.setattr(streams.Streams, "finished", finished)
    tar = shutil.which("tar")
    program("tar", f'case $* in *{site.staging}/*) cat >/dev/null;; *) exec {tar} "$@";; esac')
    site.put_all(["a/1", "a/2"])
    site.put("a/1", b"a/1", site.far_buffer)
    make_pass(site)
    assert statuses(site) == {"a/1": "HELD", "a/2": "FOUND"}
    assert rows(site, "checksum", "transfer_attempt") == [None] * len(
        rows(site, "batch_id", "transfer_attempt")
    )


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        OSError(errno.ENFILE, os.strerror(errno.ENFILE)),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        MemoryError(),
        RuntimeError("can't start new thread"),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (session.Session, "open"),
        (session.Session, "begin"),
        (session.Session, "stream"),
        (session.Session, "verify"),
        (session.Session, "place_files"),
        (transfer.Sender, "spare_bytes"),
        (run, "Ends"),
        (run, "_limited_start"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_machine_at_its_limits_is_tried_later_and_charges_no_file(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    owner: Any,
    name: str,
    error: Exception,
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    configured(site, max_attempts=1)
    site.put_all(["a/1", "a/2"])
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, fail)
        assert make_pass(site) == 75
    assert "failed" not in capsys.readouterr().err
    assert set(statuses(site).values()) == {"FOUND"}
    assert rows(site, "attempts") == [0, 0]
    assert make_pass(site) == 0
    assert set(tree(site.far_buffer)) == set(tree(site.holding)) == {"a/1", "a/2"}


def test_a_bug_in_a_stream_ends_the_pass_with_70(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise KeyError("x")

    site.put("a")
    monkeypatch.setattr(session.Session, "stream", fail)
    assert make_pass(site) == 70
    assert "sending failed: KeyError" in capsys.readouterr().err


def test_batches_grow_while_they_are_quick(site: Site) -> None:
    site.put_all(f"night/{number:03}" for number in range(400))
    assert make_pass(site) == 0
    sizes = rows(site, "files", "transfer_batch")
    assert sizes[0] == 64
    assert sum(sizes) == 400


def test_the_bandwidth_of_all_streams_is_limited(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = streams.Line

    class Counting(real):  # type: ignore[misc, valid-type]
        def pace(self, size_bytes: int) -> None:
            asked.append(size_bytes)
            super().pace(size_bytes)

    monkeypatch.setattr(streams, "Line", Counting)
    configured(site, bandwidth="8 Gbit/s")
    site.put("a", b"x" * 3_000_000)
    assert make_pass(site) == 0
    assert sum(asked) > 3_000_000
    assert max(asked) == MOST_AT_ONCE
    asked.clear()
    configured(site, bandwidth="8 Mbit/s")
    site.put("b", b"x" * 300_000)
    assert make_pass(site) == 0
    assert sum(asked) > 300_000
    assert max(asked) == 100_000
