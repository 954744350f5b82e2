"""Let a URL hear that passes begin and end, for a service that notices when it hears nothing.

A thread of its own does so, and is not waited for when a pass begins. Only the URL of the
configuration is asked, and to where it leads: no proxy of the environment.
"""

from __future__ import annotations

import http.client
import queue
import threading
import urllib.parse
import urllib.request

from dbbbatch import __version__
from dbbbatch.passes.context import logger

#: Most redirects that are followed, and bytes of an answer that are read.
_REDIRECTS, _ANSWER = 3, 4096


class _FewRedirects(urllib.request.HTTPRedirectHandler):
    max_redirections = _REDIRECTS


class Ping:
    """The pings of one start of a script.

    Parameters
    ----------
    url : `str`
        As `[alert] ping` has it.
    label : `str`
        KIND.NAME.
    limit : `float`
        Seconds that one may take, and that the last one is waited for.
    """

    def __init__(self, url: str, label: str, limit: float) -> None:
        self._url, self._label, self._limit = url, label, limit
        self._waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.HTTPHandler,
            urllib.request.HTTPSHandler,
            urllib.request.HTTPDefaultErrorHandler,
            urllib.request.HTTPErrorProcessor,
            urllib.request.UnknownHandler,
            _FewRedirects,
        ):
            self._opener.add_handler(handler())

    def begin(self) -> None:
        """Let it hear that a pass begins, the first time."""
        if self._thread is None:
            self._send("/start")

    def end(self, well: bool) -> None:
        """Let it hear how the passes ended, and wait until it was heard, or for the limit."""
        self._send("" if well else "/fail")
        self._waiting.put("stop")
        if self._thread is not None:
            self._thread.join(self._limit)

    def _send(self, what: str) -> None:
        self._waiting.put(what)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ping", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (what := self._waiting.get()) != "stop":
            url = ping_url(self._url, self._label, what)
            request = urllib.request.Request(url, headers={"User-Agent": f"dbbbatch/{__version__}"})
            try:
                with self._opener.open(request, timeout=self._limit) as answer:
                    answer.read(_ANSWER)
            except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
                host = urllib.parse.urlsplit(url).hostname
                # Not its words: they may quote the URL.
                logger.warning("%s was not told%s: %s", host, what, type(error).__name__)


def ping_url(url: str, label: str, what: str) -> str:
    """Return the URL to ask.

    Parameters
    ----------
    url : `str`
        As configured.
    label : `str`
        KIND.NAME.
    what : `str`
        What is appended to its path: "/start", "" or "/fail".
    """
    kind, _, name = label.partition(".")
    for placeholder, value in (("{label}", label), ("{kind}", kind), ("{name}", name)):
        url = url.replace(placeholder, value)
    parts = urllib.parse.urlsplit(url)
    path = parts.path.rstrip("/") + what if what else parts.path
    return urllib.parse.urlunsplit(parts._replace(path=path))
