"""The transfer commands of the operators' page do what the page says."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

import pytest

from dbbbatch.process import template
from tests.support.handing import HOSTILE, contents, make_pass
from tests.support.scripts import TOP
from tests.support.site import Site, tree

PAGE = (TOP / "docs" / "transfer-commands.md").read_text()


def documented(tool: str) -> Mapping[str, str]:
    """Return the endpoint's keys that the page has for a tool."""
    for block in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL):
        keys = tomllib.loads(block)["handoff"]["latiss"]["endpoint"]
        if keys["transfer"].split()[0] == tool:
            return {name: str(value) for name, value in keys.items()}
    raise AssertionError(f"no {tool} on the page")


def goes_through(site: Site, keys: Mapping[str, str]) -> None:
    site.write(handoff={"min_free": 0}, endpoint=keys)
    files = contents(HOSTILE)
    site.put_all(files)
    assert make_pass(site) == 0
    assert tree(site.far_buffer) == files


def test_the_built_in_stream(ssh_site: Site) -> None:

    ssh_site.by_stream = True
    goes_through(ssh_site, {})


def test_cp(site: Site) -> None:
    goes_through(site, documented("cp"))


def test_rsync(ssh_site: Site) -> None:
    goes_through(ssh_site, {**documented("rsync"), "ssh": f"ssh {ssh_site.ssh.options}"})


def test_scp(ssh_site: Site) -> None:
    keys = documented("scp")
    options = f"scp {ssh_site.ssh.options} "
    goes_through(ssh_site, {**keys, "transfer": keys["transfer"].replace("scp ", options, 1)})


def test_bbcp_is_given_these_arguments() -> None:
    keys = documented("bbcp")
    argv = template.parse_command(keys.pop("transfer")).argv(
        {
            **{name: value.encode() for name, value in keys.items()},
            "user": b"dbb",
            "host": b"far",
            "batch": [b"/data/buffer/a b", b"/data/buffer/-c"],
            "dest": b"/data/at/staging/dbb-summit-latiss-0/1/",
        }
    )
    assert argv == [
        *(b"bbcp", b"-p", b"-s", b"4", b"-Z", b"5031:5039", b"-T"),
        b"ssh -x -a -o BatchMode=yes %I -l %U %H bbcp",
        *(b"/data/buffer/a b", b"/data/buffer/-c"),
        b"dbb@far:/data/at/staging/dbb-summit-latiss-0/1/",
    ]


@pytest.mark.parametrize("tool", ["rsync", "scp", "cp", "bbcp"])
def test_the_page_tells_how_to_limit_the_bandwidth(tool: str) -> None:
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (text,) = [part for part in section if part.split()[0].strip(",") == tool]
    assert "Bandwidth:" in text


def test_the_page_names_every_placeholder() -> None:
    for name in (*template.SOURCES, *template.DESTINATIONS, "source_root"):
        assert f"`{{{name}}}`" in PAGE
