"""The plugin that runs a command: exit codes, names as data, time limits."""

import os
import signal
import sqlite3
import sys
from pathlib import Path

import pytest

from dbbbatch.config.fields import defaults
from dbbbatch.process import family, run
from dbbbatch.targets import registry
from dbbbatch.targets.command import CommandPlugin, CommandSettings
from dbbbatch.targets.plugin import Context, Misconfigured, NotReady, StoredFile
from tests.support.site import Site
from tests.targets.offering import offered, results, started, stored

EXIT = f"{sys.executable} -c 'import sys; sys.exit(int(sys.argv[1]))' {{filename}}"


def put(directory: Path, *names: str) -> list[Path]:
    paths = [directory / name for name in names]
    for path in paths:
        path.write_bytes(b"data")
    return paths


def test_exit_codes_mean_what_is_configured(tmp_path: Path) -> None:
    with started(
        "command", tmp_path, command=EXIT, done=[0, 10], already=[11], later=[12], never=[13]
    ) as plugin:
        outcomes = offered(plugin, *put(tmp_path, "0", "10", "11", "12", "13", "14"))
    assert results(outcomes) == ["done", "done", "already", "later", "never", "failed"]


def test_failure_says_what_the_command_said(tmp_path: Path) -> None:
    command = "sh -c 'echo the repository is read-only >&2; exit 9' {file}"
    with started("command", tmp_path, command=command) as plugin:
        (outcome,) = offered(plugin, *put(tmp_path, "x"))
    assert outcome.message == "exit code 9: the repository is read-only"


@pytest.mark.parametrize("code", [9, 75])
def test_failure_with_a_silent_stderr_says_what_the_command_printed(
    tmp_path: Path, code: int
) -> None:
    command = f"sh -c 'echo no such night; exit {code}' {{file}}"
    with started("command", tmp_path, command=command) as plugin:
        (outcome,) = offered(plugin, *put(tmp_path, "x"))
    assert outcome.message == f"exit code {code}: no such night"


def test_success_says_what_the_command_printed(tmp_path: Path) -> None:
    with started("command", tmp_path, command="echo registered as 17 {file}") as plugin:
        (outcome,) = offered(plugin, *put(tmp_path, "x"))
    assert outcome.message.startswith("registered as 17")


@pytest.mark.promise
def test_names_are_data(tmp_path: Path) -> None:
    names = ["a b", "$(touch evil)", "`touch evil`", ";touch evil", "new\nline", "-n", "*", "'\""]
    names.append(os.fsdecode(b"\xff\xfe"))
    (tmp_path / "out").mkdir()
    command = f"cp -- {{file}} {tmp_path}/out/"
    with started("command", tmp_path, command=command) as plugin:
        assert set(results(offered(plugin, *put(tmp_path, *names)))) == {"done"}
    assert sorted(os.listdir(tmp_path / "out")) == sorted(names)


def test_placeholders_are_filled(tmp_path: Path) -> None:
    (tmp_path / "night").mkdir()
    command = "printf %s| {relpath} {filename} {storage} {target} {size_bytes} {checksum} {{file}}"
    with started("command", tmp_path, command=command) as plugin:
        (path,) = put(tmp_path / "night", "x.fits")
        file = StoredFile(1, str(path), "night", path.name, 4, {"md5": "ab"})
        (outcome,) = plugin.ingest([file])
    said = outcome.message.split("|")
    assert said == ["night", "x.fits", str(tmp_path), "here", "4", "md5:ab", "{file}", ""]


def test_command_that_exceeds_the_time_limit_failed(tmp_path: Path) -> None:
    context = Context("here", "site", str(tmp_path), str(tmp_path), 0.5)
    plugin = CommandPlugin(defaults(CommandSettings, command="sh -c 'sleep 60' {file}"), context)
    plugin.start()
    (outcome,) = offered(plugin, *put(tmp_path, "x"))
    assert outcome.result.value == "failed"
    assert "time limit" in outcome.message


def test_command_that_cannot_be_ended_failed_and_no_further_one_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "end", lambda *_: None)
    monkeypatch.setattr(run, "GRACE", 0.1)
    context = Context("here", "site", str(tmp_path), str(tmp_path), 0.5)
    command = "sh -c 'echo $$ >$1.pid; exec sleep 60' sh {file}"
    plugin = CommandPlugin(defaults(CommandSettings, command=command), context)
    plugin.start()
    outcomes = plugin.ingest(stored(*put(tmp_path, "x", "y")))
    failed = next(outcomes)
    pid = int((tmp_path / "x.pid").read_text())
    with pytest.raises(NotReady, match=f"process {pid} could not be ended"):
        next(outcomes)
    os.kill(pid, signal.SIGKILL)
    assert (failed.number, failed.result.value) == (1, "failed")
    assert f"process {pid} could not be ended" in failed.message
    assert not (tmp_path / "y.pid").exists()


def test_missing_program_is_said_at_the_start(tmp_path: Path) -> None:
    with (
        pytest.raises(Misconfigured, match="no-such-program"),
        started("command", tmp_path, command="no-such-program {file}"),
    ):
        pass


def test_unknown_placeholder_is_a_problem_of_the_configuration() -> None:
    (problem,) = registry.plugin_problems("target.x", "command", {"command": "register {flie}"})
    assert "did you mean 'file'" in problem


def test_command_without_the_file_is_a_problem_of_the_configuration() -> None:
    (problem,) = registry.plugin_problems("target.x", "command", {"command": "register"})
    assert "{file} is missing" in problem


@pytest.mark.parametrize(
    "keys", [{"done": [0, 9], "never": [9]}, {"never": [75]}, {"already": [0]}]
)
def test_an_exit_code_with_two_meanings_is_a_problem_of_the_configuration(
    keys: dict[str, list[int]],
) -> None:
    (problem,) = registry.plugin_problems(
        "target.x", "command", {"command": "register {file}", **keys}
    )
    assert "an exit code has one meaning" in problem
    assert problem.startswith(f"[target.x.config] {[*keys][-1]}: ")


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("name", ["sha256", "blake2b"])
def test_checksum_is_the_recorded_one(site: Site, backend: str, name: str) -> None:
    config = {"command": "echo {checksum} {filename}"}
    site.write(
        finder={"checksum": name, "checksums": ["adler32", "md5", "sha512", name]},
        targets={"a": {"plugin": "command", "config": config}},
    )
    site.put("x", where=site.far_buffer)
    for script in ("dbb-finder", "dbb-ingester"):
        assert site.run(script).code == 0
    with sqlite3.connect(site.database_url.removeprefix("sqlite:///")) as database:
        ((recorded,),) = database.execute("SELECT checksum FROM file").fetchall()
        ((said,),) = database.execute(
            "SELECT message FROM ingest_event WHERE status = 'SUCCESS'"
        ).fetchall()
    assert recorded.startswith(f"{name}:")
    assert said == f"{recorded} x"
