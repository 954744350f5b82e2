"""What `dbb status` shows: to people, to programs, and to monitoring."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from typing import Any

import pytest

from dbbbatch.cli import status
from dbbbatch.report.health import Component, Health, Level, Room, Trouble, Waiting
from tests.support.scripts import TOP
from tests.support.site import Site

NOW = datetime(2026, 11, 30, 9, 30)


def sick() -> Health:
    """Return a site with a bit of everything."""
    long = "/data/very/long/path/of/a/storage/area/that/no/terminal/of/80/columns/holds/storage"
    return Health(
        at=NOW,
        site="summit",
        troubles=[
            Trouble(
                "summit",
                "target.gen3",
                "configuration",
                0,
                "/etc/dbb/dbb.toml: [target.gen3] plugin: unknown plugin 'butler'; did you mean "
                "'butler-gen3'?",
                "correct it, then: dbb check",
                since=NOW - timedelta(hours=3),
                level=Level.CRITICAL,
            ),
            Trouble("summit", "target.a", "failing", 1, "no detector", "", "dbb list target.a"),
            Trouble("summit", "", "no room", 0, long, "make room there"),
        ],
        components=[
            Component(
                site="summit",
                label="handoff.latiss",
                host="mountain",
                state="ok",
                last_ok=NOW - timedelta(seconds=40),
                usual=60,
                counts={"delivered": 1203, "held": 1203, "failed": 0},
            ),
            Component(
                site="summit",
                label="target.gen3",
                host="mountain",
                state="error (78)",
                last_ok=NOW - timedelta(hours=3),
                usual=60,
                overdue=True,
            ),
            Component(
                site="summit",
                label="target.a",
                host="mountain",
                state="paused",
                paused_until=NOW,
                message="mirror",
            ),
        ],
        backlog=[
            Waiting(
                site="summit",
                label="handoff.latiss",
                step="deliver",
                files=1203,
                at_least=True,
                size_bytes=10**10,
                oldest=NOW - timedelta(hours=2),
            ),
            Waiting(site="summit", label="target.gen3", step="ingest", files=240, rate=0.1),
        ],
        rooms=[
            Room(
                where="[finder.latiss] storage",
                path=long,
                free_bytes=5 * 10**9,
                total_bytes=10**12,
                needed_bytes=10**9,
            )
        ],
    )


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that shows a state of health as `dbb status` does, and gives the lines."""

    def show(health: Health, *, short: bool = False) -> list[str]:
        status.show_health(health, short)
        return capsys.readouterr().out.splitlines()

    return show


class TestText:
    def test_the_first_line_of_a_well_site_says_so(self, shown: Any) -> None:
        first = shown(Health(at=NOW, site="summit"))[0]
        assert first == "WELL: no file waits."

    def test_the_first_words_say_what_and_since_when_and_how_many_files_wait(
        self, shown: Any
    ) -> None:
        text = " ".join(line.strip() for line in shown(sick())[:3])
        assert text.startswith(
            "NOT WELL: target.gen3: configuration since 2026-11-30 06:30 UTC (3 h); 3 troubles, "
            "2 need a person; at least 1,443 files wait."
        )

    def test_it_fits_80_columns_but_for_names(self, shown: Any) -> None:
        wide = [line for line in shown(sick()) if len(line) > 80]
        assert all(" " not in line.strip() for line in wide)

    def test_no_line_ends_in_a_blank(self, shown: Any) -> None:
        assert [line for line in shown(sick()) if line != line.rstrip()] == []

    def test_a_name_is_not_cut(self, shown: Any) -> None:
        text = "\n".join(shown(sick()))
        for room in sick().rooms:
            assert room.path in text

    def test_a_command_is_on_a_line_of_its_own(self, shown: Any) -> None:
        lines = [line.strip() for line in shown(sick())]
        assert "dbb check" in lines
        assert "list: dbb list target.a" in lines

    def test_what_needs_nobody_says_so(self, shown: Any) -> None:
        assert "    next: nothing: it is tried again by itself" in shown(sick())

    def test_one_file_is_one_file(self, shown: Any) -> None:
        assert "  target.a: failing, 1 file" in shown(sick())

    def test_it_says_when_a_backlog_is_done(self, shown: Any) -> None:
        (line,) = (line for line in shown(sick()) if "ingest" in line)
        assert line.endswith("done in 40 min")

    def test_a_backlog_that_was_not_counted_to_its_end_is_a_table_at_80_columns(
        self, shown: Any
    ) -> None:
        (line,) = (line for line in shown(sick()) if "deliver " in line)
        assert re.search(r"handoff.latiss +deliver +≥ 1,203 +10.0 GB +2 h$", line)

    def test_a_pause_has_its_end_and_reason(self, shown: Any) -> None:
        text = " ".join(" ".join(shown(sick())).split())
        assert "target.a paused never until 2026-11-30 09:30: mirror" in text

    def test_short_is_the_verdict_and_the_troubles(self, shown: Any) -> None:
        lines = shown(sick(), short=True)
        assert "Troubles" in lines
        assert "Components" not in lines

    def test_sites_are_named_where_there_are_several(self, shown: Any) -> None:
        health = sick()
        health.components.append(
            Component(site="archive", label="finder.latiss", host="lake", state="ok")
        )
        text = "\n".join(shown(health))
        assert "archive finder.latiss" in text
        assert "summit handoff.latiss" in text

    def test_hosts_are_named_where_there_are_several(self, shown: Any) -> None:
        health = sick()
        assert "mountain" not in "\n".join(shown(health))
        health.components.append(
            Component(site="summit", label="finder.latiss", host="lake", state="ok")
        )
        text = "\n".join(shown(health))
        assert "mountain" in text
        assert "lake" in text

    def test_without_the_database_it_says_what_it_does_not_know(self, shown: Any) -> None:
        health = Health(at=NOW, site="summit", database="away")
        assert any("could not be asked" in line for line in shown(health))


class TestOnASite:
    def test_after_a_night_everything_is_where_it_belongs(self, site: Site) -> None:
        site.put_all(["night/a.fits", "night/b.fits"])
        for script in ("dbb-handoff", "dbb-finder", "dbb-ingester"):
            assert site.run(script) == (0, "", "")
        shown = json.loads(site.run("dbb", "status", "--json").out)
        assert (shown["verdict"], shown["level"], shown["troubles"]) == ("WELL", "WELL", [])
        assert [(one["label"], one["state"]) for one in shown["components"]] == [
            ("finder.latiss", "ok"),
            ("handoff.latiss", "ok"),
            ("target.a", "ok"),
        ]
        assert shown["backlog"] == []
        assert shown["at"].endswith("Z")

    @pytest.mark.parametrize("backend", ["sqlite"])
    def test_people_see_tables(self, site: Site) -> None:
        site.put("a.fits")
        site.run("dbb-handoff")
        code, out, err = site.run("dbb", "status")
        assert (code, err) == (0, "")
        assert out.startswith("WELL: 1 file waits.\n")
        assert re.search(r"^  handoff\.latiss +ok +\d s ago +1 delivered, 1 held$", out, re.M)
        assert re.search(r"^  finder\.latiss +store +1 +4 B", out, re.M)

    @pytest.mark.parametrize("backend", ["sqlite"])
    def test_an_advice_can_be_pasted(self, site: Site) -> None:
        site.write(targets={"a": {"plugin": "no-such"}})
        out = site.run("dbb", "status").out
        (pasted,) = (line.strip() for line in out.splitlines() if line.strip().startswith("dbb "))
        assert pasted == f"dbb -c {site.config} check"

    @pytest.mark.parametrize("backend", ["sqlite"])
    def test_monitoring_gets_one_line_and_a_code(self, site: Site) -> None:
        code, out, err = site.run("dbb", "status", "--check")
        assert (code, err, out.count("\n")) == (0, "", 1)
        assert out.startswith("DBB OK - no file waits | backlog_files=0;;;0 ")
        site.write(targets={"a": {"plugin": "no-such"}})
        code, out, err = site.run("dbb", "status", "--check")
        assert (code, err, out.count("\n")) == (2, "", 1)
        assert out.startswith("DBB CRITICAL - summit target.a: configuration: ")

    @pytest.mark.parametrize("backend", ["sqlite"])
    def test_monitoring_without_a_configuration_is_unknown(self, site: Site) -> None:
        ran = site.run("dbb", "status", "--check", "-c", "/no/such/file")
        assert ran == (
            3,
            "DBB UNKNOWN - /no/such/file: cannot be read: No such file or directory\n",
            "",
        )


def run_on_a_terminal(site: Site, *arguments: str, until: str, **env: str) -> tuple[str, int]:
    """Run `dbb status` on a terminal until it has written something; end it by Ctrl-C."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, TOP / "bin" / "dbb", "status", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "DBB_CONFIG": str(site.config), "TERM": "xterm", **env},
        start_new_session=True,
    )
    os.close(theirs)
    seen, deadline = b"", time.monotonic() + 60
    try:
        while until.encode() not in seen and time.monotonic() < deadline:
            seen += os.read(ours, 65536)
    except OSError:
        pass  # it has ended
    process.send_signal(signal.SIGINT)
    code = process.wait(60)
    os.close(ours)
    return seen.decode(), code


@pytest.mark.parametrize("backend", ["sqlite"])
class TestTerminal:
    def test_watching_ends_by_ctrl_c(self, site: Site) -> None:
        seen, code = run_on_a_terminal(site, "--watch", "1", until="Free room")
        assert code == 0
        assert "WELL" in seen

    def test_it_has_colours(self, site: Site) -> None:
        assert "\x1b[3" in run_on_a_terminal(site, "--watch", until="Components")[0]

    def test_colours_can_be_left_out(self, site: Site) -> None:
        seen, _ = run_on_a_terminal(site, "--watch", until="Components", NO_COLOR="1")
        assert "\x1b[3" not in seen
        assert "WELL" in seen
