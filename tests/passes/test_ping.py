"""What a URL hears of passes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dbbbatch.passes.context import Options
from dbbbatch.passes.ping import Ping, ping_url
from dbbbatch.passes.reporter import Reporter
from dbbbatch.passes.signals import Signals
from tests.support.site import Site


class Listener:
    """A server on this machine that notes what it is asked for."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.leads_to = ""
        self.silent = threading.Event()
        self.over = threading.Event()
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listener.heard.append(self.path)
                if listener.silent.is_set():
                    listener.over.wait(30)
                if self.path.startswith("/again"):
                    self.send_response(302)
                    self.send_header("Location", listener.leads_to or self.path)
                else:
                    self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("url", "what", "expected"),
    [
        ("https://h/key", "", "https://h/key"),
        ("https://h/key", "/start", "https://h/key/start"),
        ("https://h/{label}/", "/fail", "https://h/handoff.a/fail"),
        ("https://h/k/{kind}-{name}?create=1", "/fail", "https://h/k/handoff-a/fail?create=1"),
    ],
)
def test_what_happened_is_appended_to_the_path(url: str, what: str, expected: str) -> None:
    assert ping_url(url, "handoff.a", what) == expected


@pytest.mark.parametrize(("well", "last"), [(True, "/a/b"), (False, "/a/b/fail")])
def test_a_url_hears_that_a_pass_begins_and_how_it_ended(
    listener: Listener, well: bool, last: str
) -> None:
    ping = Ping(f"{listener.url}/a/b", "handoff.a", 30)
    ping.begin()
    ping.begin()  # while it lingers
    ping.end(well)
    assert listener.heard == ["/a/b/start", last]


def test_redirects_are_bounded(listener: Listener) -> None:
    Ping(f"{listener.url}/again", "handoff.a", 30).end(True)
    assert len(listener.heard) <= 5


@pytest.mark.parametrize("leads_to", ["http://[", "http://127.0.0.1:99999/", "file:///etc/passwd"])
def test_where_nothing_can_be_is_no_traceback(
    listener: Listener, leads_to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    listener.leads_to = leads_to
    Ping(f"{listener.url}/again", "handoff.a", 30).end(True)
    assert (listener.heard, raised) == (["/again"], [])


def test_no_proxy_of_the_environment_is_asked(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9/")
    Ping(f"{listener.url}/x", "handoff.a", 30).end(True)
    assert listener.heard == ["/x"]


def test_a_server_that_does_not_answer_holds_nobody_up(listener: Listener) -> None:
    listener.silent.set()
    ping = Ping(f"{listener.url}/x", "handoff.a", 0.1)
    ping.begin()
    ping.end(True)  # it returns


@pytest.mark.parametrize("backend", ["sqlite"])
class TestPasses:
    @pytest.fixture
    def pinged(self, site: Site, listener: Listener) -> Site:
        with site.config.open("a") as config:
            config.write(f'\n[alert]\nping = "{listener.url}/{{label}}"\nlimit = "30s"\n')
        return site

    def test_a_pass_that_went_well(self, pinged: Site, listener: Listener) -> None:
        pinged.put("a.fits")
        assert pinged.run("dbb-handoff").code == 0
        assert listener.heard == ["/handoff.latiss/start", "/handoff.latiss"]

    def test_a_pass_that_failed(self, pinged: Site, listener: Listener) -> None:
        pinged.storage.rename(pinged.root / "elsewhere")
        assert pinged.run("dbb-finder").code == 75
        assert listener.heard == ["/finder.latiss/start", "/finder.latiss/fail"]

    def test_files_that_fail_are_no_failure_of_passes(
        self, pinged: Site, listener: Listener
    ) -> None:
        pinged.put("a.fits").chmod(0)
        assert pinged.run("dbb-handoff").code in (0, 1)  # root reads it
        assert listener.heard[-1] == "/handoff.latiss"

    def test_a_pass_that_is_paused_or_waits_for_another_is_none(
        self, pinged: Site, listener: Listener
    ) -> None:
        assert pinged.run("dbb", "pause", "handoff.latiss").code == 0
        assert pinged.run("dbb-handoff").code == 0
        assert listener.heard == []

    def test_a_pass_that_was_interrupted_has_not_failed(
        self, pinged: Site, listener: Listener
    ) -> None:
        with Signals() as signals:
            reporter = Reporter(pinged.settings(), "handoff.latiss", Options(), signals)
            reporter.begin_pass()
            reporter.end(reporter.remember("interrupted", 75, "interrupted by a signal"))
            reporter.end(reporter.remember("ok", 0, ""))
        assert listener.heard == ["/handoff.latiss/start", "/handoff.latiss"]

    def test_nobody_who_listens_is_no_trouble(self, pinged: Site, listener: Listener) -> None:
        text = pinged.config.read_text().replace(listener.url, "http://127.0.0.1:9")
        pinged.config.write_text(text)
        ran = pinged.run("dbb-handoff")
        assert (ran.code, ran.out, ran.err) == (0, "", "")
