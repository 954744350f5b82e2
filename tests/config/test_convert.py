"""`dbb config convert`: files of the original managers become one of ours."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.scripts import Ran, run_script

HANDOFF = """
database:
  engine: "sqlite:////var/lib/old/handoff.db"
  echo: true
handoff:
  buffer: /arc/out
  holding: /arc/kept
endpoint:
  user: mover
  host: gate.example.org
  port: 2222
  buffer: /in/buffer
  staging: /in/incoming
  commands:
    remote: "ssh -p {port} {user}@{host} \\"{command}\\""
    transfer: "scp -P {port} -Bpq {batch} {user}@{host}:{dest}"
general:
  num_threads: 4
  chunk_size: 25
  timeout: 300
  expiration_time: 7200
  pause: 5
  exclude_list: ['\\.part$', '^tmp/']
logging:
  file: /var/log/handoff.log
  rotate: TIME
"""

FINDER = """
database:
  engine: "postgresql+psycopg2://ingest:secret@db.example.org:5433/science?sslrootcert=/etc/ca.pem"
  tablenames: {file: {schema: null, table: files}}
finder:
  source: /in/buffer
  storage: /store
  actions: {standard: Move, alternative: Delete}
  search: {method: scan, exclude_list: ['~$'], date: null, past_days: 2}
  pause: 10
"""

LOGS = """
database: {engine: "sqlite:////old.db", tablenames: {file: {table: files}}}
finder:
  source: /rsync-logs
  storage: /store
  actions: {standard: Noop, alternative: null}
  search: {method: parse_rsync_logs, date: 2026-11-24, past_days: 3, future_days: 0, delay: 90}
"""

GEN3 = """
database:
  engine: "postgresql://ingest@db.example.org/science"
  tablenames: {file: {table: files}, event: {schema: s, table: events}}
ingester:
  storage: /store
  plugin:
    name: Gen3Ingest
    config:
      butler: {root: /repo/main, collection: LATISS/raw/all}
      ingest: {transfer: direct, processes: 2, group_files: false, config: {failFast: true}}
      visits: {instrument: lsst.obs.lsst.Latiss, collections: LATISS/raw/all}
  include_list: ['\\.fits$']
  file_status: UNTRIED
  batch_size: 10
  num_threads: 3
"""

GEN2 = """
database: {engine: "sqlite:////old.db", tablenames: {file: {table: f}, event: {table: e}}}
ingester:
  storage: /store
  plugin:
    name: Gen2Ingest
    config: {butler: {root: /repo/gen2}, ingest: {mode: link, ignoreIngested: true, other: 1}}
"""

BACKFILL = """
database: {engine: "sqlite:////old.db", tablenames: {file: {table: f}, event: {table: e}}}
backfill:
  storage: /store
  sources: ["2026-11-2*", it's]
  search: {exclude_list: null}
"""


def convert(tmp_path: Path, *texts: str) -> tuple[dict[str, Any], Ran]:
    """Return what files become, of which the checks made no complaint."""
    files = []
    for number, text in enumerate(texts):
        files.append(str(tmp_path / f"{number}.yaml"))
        Path(files[-1]).write_text(text)
    options = ("--site", "summit", "--state", str(tmp_path / "state"))
    ran = run_script("dbb", "config", "convert", *files, *options, "-o", str(tmp_path / "new.toml"))
    assert ran.code == 0, ran.err
    return tomllib.loads((tmp_path / "new.toml").read_text()), ran


def notes(ran: Ran) -> list[str]:
    return [line.partition(".yaml: ")[2] or line for line in ran.err.splitlines()]


def test_a_handoff(tmp_path: Path) -> None:
    tables, ran = convert(tmp_path, HANDOFF)
    assert tables["handoff"]["main"] == {
        "buffer": "/arc/out",
        "holding": "/arc/kept",
        "quarantine": "/arc/quarantine",
        "timeout": 300,
        "streams": 4,
        "expiration": 7200,
        "exclude": [r"\.part$", "^tmp/"],
        "endpoint": {
            "buffer": "/in/buffer",
            "staging": "/in/incoming",
            "user": "mover",
            "host": "gate.example.org",
            "port": 2222,
            "remote": "ssh -o BatchMode=yes -o ConnectTimeout=10 -p {port} {user}@{host} {command}",
            "transfer": "scp -P {port} -Bpq {batch} {user}@{host}:{dest}",
        },
    }
    assert [line.partition(": ")[0] for line in notes(ran)] == [
        "database.engine",
        "endpoint.commands.remote",
        "endpoint.commands.transfer",
        "quarantine = /arc/quarantine",
        "database.echo",
        "general.chunk_size",
        "general.pause",
        "logging.file",
        "logging.rotate",
    ]
    assert ran.out == f"{tmp_path}/new.toml: written and checked\n"


def test_a_handoff_without_staging_gets_one(tmp_path: Path) -> None:
    text = HANDOFF.replace("  staging: /in/incoming\n", "")
    tables, _ = convert(tmp_path, text)
    assert tables["handoff"]["main"]["endpoint"]["staging"] == "/in/staging"


def test_a_finder_and_its_ingesters_become_one_file(tmp_path: Path) -> None:
    tables, ran = convert(tmp_path, FINDER, GEN3, GEN2)
    assert tables["database"] == {"url": "postgresql://ingest@db.example.org/dbb"}
    assert tables["finder"]["main"] == {
        "source": "/in/buffer",
        "storage": "/store",
        "standard": "move",
        "alternative": "delete",
        "search": "scan",
        "exclude": ["~$"],
        "past_days": 2,
        "quarantine": "/storage-quarantine",
    }
    assert tables["target"] == {
        "gen3": {
            "plugin": "butler-gen3",
            "storage": "/store",
            "include": [r"\.fits$"],
            "workers": 3,
            "config": {
                "repo": "/repo/main",
                "run": "LATISS/raw/all",
                "task": "lsst.obs.base.RawIngestTask",
                "transfer": "direct",
                "visits": "lsst.obs.base.DefineVisitsTask",
                "task_config": {"failFast": True},
                "task_options": {"group_files": False},
                "visits_options": {"collections": "LATISS/raw/all"},
            },
        },
        "gen2": {
            "plugin": "butler-gen2",
            "storage": "/store",
            "config": {"root": "/repo/gen2", "mode": "link", "options": {"other": 1}},
        },
    }
    told = "\n".join(notes(ran))
    for key in (
        "ingester.plugin.config.ingest.processes",
        "ingester.plugin.config.visits.instrument",
        "ingester.plugin.config.ingest.ignoreIngested",
        "ingester.file_status",
        "ingester.batch_size",
        "database.tablenames.event.schema",
        "finder.pause",
    ):
        assert f"{key}: " in told
    assert "secret" not in (tmp_path / "new.toml").read_text() + ran.err + ran.out


def test_a_finder_that_reads_the_logs_of_rsync(tmp_path: Path) -> None:
    tables, _ = convert(tmp_path, LOGS)
    assert tables["finder"]["main"] == {
        "source": "/rsync-logs",
        "storage": "/store",
        "standard": "none",
        "search": "rsync-logs",
        "date": "20261124",
        "past_days": 3,
        "future_days": 0,
        "delay": 90,
        "quarantine": "/storage-quarantine",
    }


def test_a_backfill_becomes_a_command(tmp_path: Path) -> None:
    _, ran = convert(tmp_path, FINDER, BACKFILL)
    command = """dbb backfill finder.main '2026-11-2*' 'it'"'"'s'"""
    assert ran.err.splitlines()[-1] == f"once, after `dbb init`: {command}"


def test_without_output_it_is_printed(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(FINDER)
    ran = run_script("dbb", "config", "convert", str(tmp_path / "old.yaml"), "--name", "latiss")
    assert ran.code == 0
    assert list(tomllib.loads(ran.out)["finder"]) == ["latiss"]


def test_files_that_stay_in_the_source_are_not_moved_by_mistake(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(FINDER.replace("standard: Move", "standard: null"))
    ran = run_script(
        *("dbb", "config", "convert", str(tmp_path / "old.yaml"), "-o", str(tmp_path / "new.toml"))
    )
    assert ran.code == 78
    assert "must be corrected" in ran.out
    assert "finder.actions.standard: no counterpart" in ran.err
    assert (
        tomllib.loads((tmp_path / "new.toml").read_text())["finder"]["main"]["standard"] == "none"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a\n- b", "is no configuration of the original managers"),
        ("finder: [1, 2", "is not YAML"),
        ("database: {}", "none, or several"),
        ("a: \x00", "is not YAML"),
        ("handoff: &a {buffer: *a}", "has aliases"),
        ("ingester: {plugin: {name: Other}}", "expected Gen2Ingest, Gen3Ingest"),
        ("ingester: 3", "ingester.plugin.name: is missing"),
    ],
)
def test_what_is_none_of_theirs_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "old.yaml").write_text(text)
    ran = run_script("dbb", "config", "convert", str(tmp_path / "old.yaml"))
    assert (ran.code, ran.err.count("\n")) == (64, 1)
    assert told in ran.err


def test_values_of_other_types_are_no_traceback(tmp_path: Path) -> None:
    text = (
        "handoff: {buffer: 1, holding: [x, {a: b}]}\nendpoint: {buffer: null, commands: {remote:"
        " 'ssh \"', transfer: 2026-11-24}, 3: {4: 5}}\ngeneral: {num_threads: x, exclude_list: 1}\n"
        "database: {engine: [a]}\n1: 2\n"
    )
    (tmp_path / "old.yaml").write_text(text)
    ran = run_script(
        *("dbb", "config", "convert", str(tmp_path / "old.yaml"), "-o", str(tmp_path / "new.toml"))
    )
    assert ran.code == 78
    assert "is no command line" in ran.err
    assert "unforeseen" not in ran.err


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    for name in ("old.yaml", "new.toml"):
        (tmp_path / name).write_text(FINDER)
    ran = run_script(
        *("dbb", "config", "convert", str(tmp_path / "old.yaml"), "-o", str(tmp_path / "new.toml"))
    )
    assert ran.code == 64
    assert (tmp_path / "new.toml").read_text() == FINDER
