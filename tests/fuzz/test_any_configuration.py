"""Any configuration is read, or refused with lines that name what is wrong: never a traceback."""

from __future__ import annotations

import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbbbatch.config import convert, fields, load, sections, toml
from dbbbatch.errors import ConfigError, UsageError
from dbbbatch.targets import registry
from tests.support.fuzz import fuzzed

pytestmark = pytest.mark.promise

#: Texts that some key takes, or nearly.
words = st.sampled_from(
    [
        *("", " ", "/", "/a", "//", "/a/../b", "relative", "~", "\n", "\0", "${HOME}", "${NOPE}"),
        *("1", "90s", "1.5h", "9" * 400, "9" * 400 + "d", "1e999", "nan", "inf", "-1", "0x10"),
        *("9" * 400 + " PiB", "1 GiB", "10 MB/s", "9" * 400 + " GB/s", "0 bit/s", "٣s", "²s"),
        *("0444", "7777", "20261124", "99999999", "2026112", "newest", "move", "none", "scan"),
        *("rsync-logs", "sqlite:////a", "postgresql://a:b@c/d", "postgres://[", "http://[", "'"),
        *("http://a:99999999/", "https://a/{label}", "cp {file} {dest}", "cp {batch}{dest}", "{"),
        *("ssh {host} {command}", "a{2147483648}", "a{99999999999}", "(" * 300, "[[a]", "(?<=a*)b"),
        *("x" * 5000, "null", "butler-gen3", "rucio", "command", "link", "\x1b[2J", "\u202e"),
    ]
)
#: What TOML can write.
values = st.recursive(
    st.one_of(
        words,
        st.text(max_size=20),
        st.integers(-3, 100),
        st.sampled_from([2**31, 2**63 - 1, 2**63, 10**30, 10**400, -(10**400)]),
        st.floats(),
        st.booleans(),
        st.datetimes(),
        st.dates(),
        st.times(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)

EVERY = [
    *(sections.Site, sections.Database, sections.Alert, sections.Report, sections.Endpoint),
    *sections.NAMED.values(),
    *(registry.find(name).Settings for name in registry.BUILT_IN),
]
KEYS = sorted(
    {(field.name, field.metadata["parse"]) for s in EVERY for field in fields.declared(s)},
    key=lambda key: (key[0], repr(key[1])),
)


def examined(content: bytes) -> list[str]:
    """Return what is wrong with a configuration; each line names its file."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "dbb.toml")
        path.write_bytes(content)
        path.chmod(0o600)
        try:
            return load.examine_file(path, registry)[1]
        except ConfigError as error:
            return list(error.problems)


@fuzzed(1000)
@given(st.sampled_from(KEYS), values)
def test_any_value_of_a_key_is_taken_or_refused_with_a_reason(key, value) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with suppress(ValueError):
            key[1](value)


@fuzzed(150)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")),
        st.sampled_from(
            [
                b"a = " + b"[" * 20000,
                b"a = " + b"{a=" * 5000,
                b"a = " + b"9" * 5000,
                b"a" + b".a" * 20000 + b" = 1",
                b"a = 9999-99-99",
                b"[site]\n" * 2,
                b"site = 1",
                b"a = 1e999999",
                b"a = 0x" + b"f" * 9000,
            ]
        ),
    )
)
def test_any_file_is_a_configuration_or_refused(content: bytes) -> None:
    assert all(problem for problem in examined(content))


BASE: dict[str, dict[str, Any]] = {
    "site": {"name": "summit", "state": "/s"},
    "database": {},
    "alert": {},
    "report": {},
    "handoff.a": {"buffer": "/b", "holding": "/h", "quarantine": "/q"},
    "handoff.a.endpoint": {"buffer": "/eb", "staging": "/es", "host": "h"},
    "finder.a": {"source": "/eb", "storage": "/st", "quarantine": "/sq"},
    "receive.a": {"buffer": "/rb", "staging": "/rs"},
    "target.a": {"storage": "/st", "plugin": "null"},
    "target.a.config": {},
}
SECTION_OF = {
    "site": sections.Site,
    "database": sections.Database,
    "alert": sections.Alert,
    "report": sections.Report,
    "handoff.a.endpoint": sections.Endpoint,
    **{f"{kind}.a": section for kind, section in sections.NAMED.items()},
}


@st.composite
def documents(draw) -> dict[str, Any]:
    """Draw a configuration of which some keys have any value."""
    document = {name: dict(table) for name, table in BASE.items()}
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(sorted(BASE)))
        known = [field.name for field in fields.declared(SECTION_OF.get(name, type))]
        key = draw(st.sampled_from([*known, "extra", *BASE[name]]))
        document[name][key] = draw(values)
    if draw(st.booleans()):
        document["target.a"]["plugin"] = draw(st.sampled_from(list(registry.BUILT_IN)))
    return document


@fuzzed(150)
@given(documents())
def test_any_value_of_any_key_gives_lines_that_name_the_file(document) -> None:
    try:
        content = toml.toml_document(document).encode()
    except ValueError:  # what cannot be written
        return
    for problem in examined(content):
        assert "dbb.toml: " in problem


@fuzzed(100)
@given(st.one_of(values, documents()))
def test_any_file_of_the_original_is_converted_or_refused(value) -> None:
    for kind in ("handoff", "finder", "ingester", "backfill"):
        document = {**value, kind: value.get("site", {})} if isinstance(value, dict) else value
        try:
            made, _ = convert.convert({"a.yaml": document}, "main", {"name": "a", "state": "/s"})
        except UsageError:
            continue
        toml.toml_document(made.tables)
