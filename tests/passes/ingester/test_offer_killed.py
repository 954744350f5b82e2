"""A pass that is killed holds files, which the next one finds; one that is signalled lets go."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbbbatch.database import connect
from tests.support.ingesting import Ingesting
from tests.support.scripts import TOP
from tests.support.site import Site
from tests.targets.conftest import open_when_read, until


@pytest.fixture
def ingesting(site: Site) -> Iterator[Ingesting]:
    yield Ingesting(site).configure()
    connect.disconnect()


@pytest.mark.promise
class TestKilled:
    """A pass that is killed holds files; the next one finds them."""

    def start(self, ingesting: Ingesting, fifo: Path) -> subprocess.Popen[bytes]:
        """Start a pass, and return when its plugin has the first file."""
        os.mkfifo(fifo)
        self.log = fifo.with_suffix(".log")
        ingesting.configure("command", config={"command": f"cat {fifo} {{file}}"})
        process = subprocess.Popen(
            [
                *(sys.executable, TOP / "bin" / "dbb-ingester"),
                *("-c", ingesting.site.config, "--log-file", self.log),
            ],
            stderr=subprocess.PIPE,
        )
        self.writer = open_when_read(fifo, meanwhile=process.poll)
        return process

    def test_files_of_a_killed_pass_are_taken_by_the_next(
        self, ingesting: Ingesting, tmp_path: Path
    ) -> None:
        ingesting.store("1.fits", "2.fits")
        process = self.start(ingesting, tmp_path / "fifo")
        process.kill()
        process.communicate()
        assert ingesting.state("1.fits")["status"] == "PENDING"
        ingesting.configure()
        assert ingesting.run() == 0
        assert ingesting.events("1.fits") == [
            "UNTRIED",
            "PENDING",
            "UNKNOWN",
            "PENDING",
            "SUCCESS",
        ]
        assert ingesting.state("1.fits")["attempts"] == 0

    def test_plan_says_what_a_killed_pass_has_claimed(
        self, ingesting: Ingesting, tmp_path: Path
    ) -> None:
        ingesting.store("1.fits")
        process = self.start(ingesting, tmp_path / "fifo")
        process.kill()
        process.communicate()
        (line,) = ingesting.plan()
        assert f"process {process.pid}" in line

    def test_files_of_a_living_pass_are_left_to_it(
        self, ingesting: Ingesting, tmp_path: Path
    ) -> None:
        ingesting.store("1.fits")
        process = self.start(ingesting, tmp_path / "fifo")
        ingesting.configure(passes=2)
        assert ingesting.run() == 0
        assert ingesting.state("1.fits")["status"] == "PENDING"
        os.close(self.writer)
        process.communicate()
        assert ingesting.events("1.fits") == ["UNTRIED", "PENDING", "SUCCESS"]

    def test_files_of_a_pass_on_another_machine_are_its_own_until_its_time_is_up(
        self, ingesting: Ingesting, tmp_path: Path
    ) -> None:
        ingesting.store("1.fits")
        process = self.start(ingesting, tmp_path / "fifo")
        process.kill()
        process.communicate()
        connect.execute("UPDATE ingest_claim SET machine = 'another'")
        ingesting.configure()
        assert ingesting.run() == 0
        assert ingesting.state("1.fits")["status"] == "PENDING"
        connect.execute("UPDATE ingest_claim SET expires_at = '2026-01-01 00:00:00.000000'")
        assert ingesting.run() == 0
        assert ingesting.state("1.fits")["status"] == "SUCCESS"

    def test_claim_that_ran_out_is_noticed_before_writing(
        self, ingesting: Ingesting, tmp_path: Path
    ) -> None:
        ingesting.store("1.fits")
        process = self.start(ingesting, tmp_path / "fifo")
        connect.execute("UPDATE ingest_claim SET expires_at = '2026-01-01 00:00:00.000000'")
        ingesting.configure(passes=2)
        assert ingesting.run() == 0
        os.close(self.writer)
        process.communicate()
        assert ingesting.events("1.fits").count("SUCCESS") == 1

    def test_signal_ends_the_pass_after_the_present_file(
        self, ingesting: Ingesting, tmp_path: Path
    ) -> None:
        ingesting.store("1.fits", "2.fits")
        process = self.start(ingesting, tmp_path / "fifo")
        process.send_signal(signal.SIGTERM)
        until(lambda: "no further file is begun" in self.log.read_text())
        os.close(self.writer)
        _, error = process.communicate()
        assert (process.returncode, error) == (75, b"")
        assert ingesting.statuses() == {"1.fits": "SUCCESS", "2.fits": "UNTRIED"}

    def test_second_signal_ends_it_at_once(self, ingesting: Ingesting, tmp_path: Path) -> None:
        ingesting.store("1.fits", "2.fits")
        process = self.start(ingesting, tmp_path / "fifo")
        process.send_signal(signal.SIGTERM)
        until(lambda: "no further file is begun" in self.log.read_text())
        process.send_signal(signal.SIGTERM)
        process.communicate()
        assert process.returncode == 75
        assert ingesting.state("1.fits")["status"] == "UNKNOWN"
        assert ingesting.state("1.fits")["attempts"] == 0
