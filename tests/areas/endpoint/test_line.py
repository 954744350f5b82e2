"""Who may use the line to the far end, and how fast."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from dbbbatch.areas.endpoint.line import Bandwidth, Line
from dbbbatch.errors import TryLater


@pytest.mark.parametrize(
    ("sent", "delays"),
    [
        # (bytes, at which time): at 1000 bytes a second, of which 100 may go at once.
        ([(100, 10.0)], [0]),
        ([(100, 10.0), (100, 10.0), (100, 10.0)], [0, 0, 0.1]),
        ([(1000, 10.0), (1, 10.0)], [0, 0.9]),
        ([(1000, 10.0), (1, 10.9)], [0, 0]),
        ([(100, 10.0), (100, 99.0), (100, 99.0), (100, 99.0)], [0, 0, 0, 0.1]),
    ],
)
def test_a_limited_rate_delays_what_would_exceed_it(
    sent: Sequence[tuple[int, float]], delays: Sequence[float]
) -> None:
    limit = Bandwidth(1000)
    assert [limit.delay(*each) for each in sent] == pytest.approx(delays)


def test_without_a_limit_nothing_is_delayed() -> None:
    limit = Bandwidth(None)
    assert [limit.delay(1 << 40, 0) for _ in range(3)] == [0, 0, 0]


class Batches:
    """Batches that are sent until they are told to end, each in a thread."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._threads: list[threading.Thread] = []
        self.ended: list[str] = []

    def begin(self, name: str, long: bool = False) -> tuple[threading.Event, threading.Event]:
        """Send a batch; return what says that it is on the line, and what ends it."""
        sending, end = threading.Event(), threading.Event()

        def send() -> None:
            try:
                with self._line.use(long=long):
                    sending.set()
                    assert end.wait(30)
            except TryLater:
                self.ended.append(name)

        thread = threading.Thread(target=send)
        self._threads.append(thread)
        thread.start()
        return sending, end

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture
def line() -> Line:
    return Line(1)


@pytest.fixture
def batches(line: Line) -> Batches:
    return Batches(line)


def test_the_next_batch_is_sent_when_the_line_is_free(line: Line, batches: Batches) -> None:
    first, end_first = batches.begin("first")
    assert first.wait(30)
    second, end_second = batches.begin("second")
    assert line.is_full
    assert not second.is_set()
    end_first.set()
    assert second.wait(30)
    end_second.set()
    batches.join()
    assert not line.is_full


def test_a_wider_line_lets_the_next_batch_on_at_once(line: Line, batches: Batches) -> None:
    first, end_first = batches.begin("first")
    assert first.wait(30)
    second, end_second = batches.begin("second")
    line.widen(2)
    assert second.wait(30)
    end_first.set()
    end_second.set()
    batches.join()


def test_a_long_file_does_not_hold_up_short_ones(batches: Batches) -> None:
    long, end_long = batches.begin("long", long=True)
    assert long.wait(30)
    for number in range(3):
        short, end_short = batches.begin(f"short {number}")
        assert short.wait(30)
        end_short.set()
        batches._threads.pop().join(30)
    end_long.set()
    batches.join()


def test_a_long_file_waits_for_another_one(batches: Batches) -> None:
    first, end_first = batches.begin("first", long=True)
    assert first.wait(30)
    second, end_second = batches.begin("second", long=True)
    short, end_short = batches.begin("short")
    assert short.wait(30)
    assert not second.is_set()
    end_short.set()
    end_first.set()
    assert second.wait(30)
    end_second.set()
    batches.join()


def test_nobody_waits_for_the_line_when_the_pass_ends(line: Line, batches: Batches) -> None:
    first, end_first = batches.begin("first")
    assert first.wait(30)
    batches.begin("second")
    line.close()
    end_first.set()
    batches.join()
    assert batches.ended == ["second"]


def test_nobody_waits_for_the_bandwidth_when_the_pass_ends() -> None:
    line = Line(1, 1.0)
    line.pace(1_000_000)
    threading.Timer(0, line.close).start()
    with pytest.raises(TryLater):
        line.pace(1)
    assert line.sent == 1_000_001
