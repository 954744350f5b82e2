"""Handoffs with several endpoints: what the file may say, and what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbbbatch.config import load
from dbbbatch.config.load import Settings
from dbbbatch.errors import UsageError

NEAR = """\
[site]
name = "summit"
state = "/var/lib/dbb"
[handoff.latiss]
buffer = "/data/buffer"
holding = "/data/holding"
quarantine = "/data/quarantine"
timeout = "1 min"
"""
FIRST = """\
[handoff.latiss.endpoint]
host = "first"
buffer = "/far/buffer"
staging = "/far/staging"
"""
BASE = """\
[handoff.latiss.endpoint.base]
host = "base"
buffer = "/far/buffer"
staging = "/far/staging"
"""


def read(path: Path, *tables: str) -> tuple[Settings, list[str]]:
    path /= "dbb.toml"
    path.write_text("".join([NEAR, *tables]))
    settings, problems = load.examine_file(path, None)  # type: ignore[arg-type]
    assert settings is not None
    return settings, [problem.removeprefix(f"{path}: ") for problem in problems]


def test_each_endpoint_is_a_section_of_its_own(tmp_path: Path) -> None:
    settings, problems = read(tmp_path, FIRST, BASE)
    assert problems == []
    assert list(settings.handoff) == ["latiss", "latiss.base"]
    first, base = settings.handoff.values()
    assert first.siblings == base.siblings == first.required == ("latiss", "latiss.base")
    assert (first.buffer, first.endpoint.placeholders["host"]) == ("/data/buffer", "first")
    assert (base.buffer, base.endpoint.placeholders["host"]) == ("/data/buffer", "base")
    assert base.label == "handoff.latiss.base"


def test_one_endpoint_alone_knows_no_siblings(tmp_path: Path) -> None:
    assert read(tmp_path, FIRST)[0].handoff["latiss"].siblings == ()
    assert read(tmp_path, BASE)[0].handoff["latiss.base"].siblings == ()


def test_the_table_of_an_endpoint_may_have_keys_of_the_handoff_that_are_about_it(
    tmp_path: Path,
) -> None:
    keys = 'timeout = "5 min"\nbandwidth = "25 MB/s"\nconfirm_targets = ["gen3"]\n'
    settings, problems = read(tmp_path, FIRST, BASE, keys)
    assert problems == []
    first, base = settings.handoff.values()
    assert (first.timeout, first.bandwidth, first.confirm_targets) == (60, None, ())
    assert (base.timeout, base.confirm_targets) == (300, ("gen3",))
    assert base.bandwidth is not None
    assert "timeout" not in base.endpoint.placeholders


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        (
            [BASE.replace('staging = "/far/staging"', "")],
            "[handoff.latiss.endpoint.base] staging: missing; ",
        ),
        (
            [FIRST, BASE.replace("endpoint.base", 'endpoint."a b"')],
            "[handoff.latiss.endpoint.a b]: a name may hold only letters, digits, _ and -",
        ),
        (
            [FIRST, BASE, 'quarantine = "/elsewhere"\n'],
            "[handoff.latiss.endpoint.base] quarantine: no command uses it, ",
        ),
        (
            [FIRST, BASE.replace('"base"', '"first"')],
            "[handoff.latiss.endpoint] buffer (/far/buffer) and [handoff.latiss.endpoint.base] "
            "buffer (/far/buffer): neither may lie in the other",
        ),
        (
            [FIRST, "required = false\n", BASE, "required = false\n"],
            "[handoff.latiss.endpoint] required: at least one endpoint must be required",
        ),
        (
            [FIRST, "[handoff.latiss.endpoint.transfer]\nhost = 1\n"],
            "[handoff.latiss.endpoint] transfer: ",
        ),
    ],
)
def test_what_is_wrong_is_said_once(tmp_path: Path, tables: list[str], problem: str) -> None:
    _, problems = read(tmp_path, *tables)
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_what_is_wrong_with_one_stops_no_other(tmp_path: Path) -> None:
    settings, _ = read(tmp_path, FIRST, BASE, "transfer = 5\n")
    assert list(settings.wrong) == ["handoff.latiss.base"]
    # It may be required: no original leaves the buffer without it.
    assert settings.handoff["latiss"].required == ("latiss", "latiss.base")


def test_a_handoff_is_named_for_all_its_endpoints_or_one(tmp_path: Path) -> None:
    settings, _ = read(tmp_path, FIRST, BASE)
    assert settings.chosen("handoff", None) == ["latiss", "latiss.base"]
    assert settings.chosen("handoff", "latiss") == ["latiss", "latiss.base"]
    assert settings.chosen("handoff", "latiss.base") == ["latiss.base"]
    assert settings.labelled("handoff.latiss").name == "latiss"
    settings, _ = read(tmp_path, BASE)
    with pytest.raises(UsageError, match=r"name one, as in handoff\.latiss\.base"):
        settings.labelled("handoff.latiss")
