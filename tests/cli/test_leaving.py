"""How a command ends that a person, or the machine, does not let end by itself."""

import errno
import os
import signal
import subprocess
import sys

import click
import pytest

from dbbbatch.cli.operator import Operator, leave
from tests.support.handing import rows
from tests.support.scripts import TOP


@pytest.mark.parametrize("script", sorted(os.listdir(TOP / "bin")))
def test_an_interrupt_while_modules_are_imported_is_130_and_a_line(tmp_path, script):
    (tmp_path / "click.py").write_text(
        "import sys, time\nprint('importing', flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, TOP / "bin" / script],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert (process.stderr.read(), process.wait()) == ("interrupted\n", 130)


def test_an_interrupt_before_a_pass_begins_is_75_and_a_line(capfd, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    command = click.Command("c", callback=interrupted)
    monkeypatch.setattr(sys, "argv", ["c"])
    with pytest.raises(SystemExit) as end:
        leave("c", command, Operator())
    assert (end.value.code, capfd.readouterr().err.strip()) == (75, "c: interrupted")


def test_an_error_of_the_machine_is_75_and_a_line(capfd, monkeypatch):
    def stale(*_, **__):
        raise OSError(errno.ESTALE, "Stale file handle", "/data")

    command = click.Command("c", callback=stale)
    monkeypatch.setattr(sys, "argv", ["c"])
    with pytest.raises(SystemExit) as end:
        leave("c", command, Operator())
    assert end.value.code == 75
    assert "/data: Stale file handle; nothing is lost" in capfd.readouterr().err


def test_a_thread_that_waits_for_a_dead_disk_keeps_no_process(tmp_path):
    os.mkfifo(tmp_path / "disk")
    script = """
import sys
from concurrent.futures import ThreadPoolExecutor
import click
from dbbbatch.cli.operator import Operator, leave

disk = sys.argv.pop()

def work():
    ThreadPoolExecutor(1).submit(open, disk, "rb")
    print("done")
    return 75

leave("c", click.Command("c", callback=work), Operator())
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "disk"],
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (75, "done\n", "")


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_signal_ends_the_passes_of_all_sections(site):
    began = site.root / "began"
    slow = site.root / "slow"
    slow.write_text(f"#!/bin/sh\necho >{began}\nsleep 2\n")
    slow.chmod(0o755)
    command = {"plugin": "command", "config": {"command": f"{slow} {{file}}"}}
    site.write(targets={"a": command, "b": command})
    site.put("x")
    assert site.run("dbb-handoff").code == site.run("dbb-finder").code == 0
    with subprocess.Popen(
        [sys.executable, TOP / "bin" / "dbb-ingester", "--all"],
        env={**os.environ, "DBB_CONFIG": str(site.config)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not began.exists():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert (process.stderr.read(), process.wait()) == ("", 75)
    passes = rows(site, "script, name, outcome", "run")
    assert [row[1:] for row in passes if row[0] == "target"] == [("a", "interrupted")]
