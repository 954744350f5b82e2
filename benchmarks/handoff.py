"""dbb-handoff over a real sshd on loopback, against other ways over the same ssh.

Wanted: small files at most 1.15 times rsync's time and 1.3 times its processor time; large files at
least 0.95 of its rate, and faster than the same steps one after another; over a line that delays
each direction by 75 ms small files at 4 times rsync's rate, and large ones at 2.5 times; one file
that arrives while the pass lingers is at the endpoint within 1.5 s. A second pass with everything
undelivered reads nothing again; of a million files the first one is delivered within 30 s, in
150 MiB.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import os
import random
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import measure

PARTS = ("small", "large", "wan", "lingering", "undelivered", "million")

#: Seconds for which the delayed line keeps each byte, in each direction.
DELAY = 0.075

#: Processes of rsync that share the work on the delayed line.
PROCESSES = 8

#: Files that arrive one by one while a pass lingers.
ARRIVALS = 10

#: Most seconds that a pass needs before it lingers, or that a file needs then.
LONGEST = 60.0


@dataclass
class Bench:
    """A place to work in, a server to send to, how much to do, and which sides to measure."""

    directory: Path
    server: object
    given: argparse.Namespace

    @property
    def less(self) -> int:
        """By what the work is divided."""
        return 10 if self.given.quick else 1

    @property
    def ssh(self) -> str:
        """The ssh that all sides use."""
        return f"ssh {self.server.options}"

    @property
    def far(self) -> str:
        """Who and where, as rsync and scp take it."""
        return f"{self.server.user}@{self.server.host}"

    @contextmanager
    def site(self, transfer: str = "rsync", **keys: object) -> Iterator[object]:
        """Two fresh sites on a fresh SQLite database."""
        from tests.support.database import initialise
        from tests.support.site import Site

        if transfer == "stream":
            keys["endpoint"] = {"transfer": None, **keys.get("endpoint", {})}
        with tempfile.TemporaryDirectory(prefix="site-", dir=self.directory) as name:
            url = f"sqlite:///{name}/dbb.sqlite"
            initialise(url)
            site = Site(Path(name) / "site", url, self.server)
            yield site.write(**keys)

    def pool(self, files: int, size: int, directories: int) -> Path:
        """Files that every run uses anew: they are renamed into place and back."""
        pool = self.directory / f"pool-{size}"
        measure.make_files(pool, files, size, directories)
        return pool

    def ours(self, pool: Path) -> dict[str, measure.Side]:
        """A side for each way of dbb-handoff that is to be measured."""
        return {
            f"dbb-handoff, {way}": lambda way=way: ours(self, pool, way)
            for way in self.given.transfer
        }

    def show(
        self,
        title: str,
        costs: dict[str, list[measure.Cost]],
        *,
        wanted: str,
        wanted_cpu: str = "",
        **more: Any,
    ) -> None:
        """Print a table of which we want something of our own sides."""
        own = [name for name in costs if name.startswith("dbb-handoff")]
        measure.show(
            title,
            costs,
            "rsync",
            wanted=dict.fromkeys(own, wanted),
            wanted_cpu=dict.fromkeys(own, wanted_cpu),
            **more,
        )

    def in_turn(self, sides: dict[str, measure.Side]) -> dict[str, list[measure.Cost]]:
        """Measure the sides that were asked for; rsync, to which ratios are, always."""
        wanted = self.given.side or [""]
        chosen = {
            name: side
            for name, side in sides.items()
            if name == "rsync" or any(word in name for word in wanted)
        }
        return measure.in_turn(chosen, self.given.repeats)


def copied(
    bench: Bench, pool: Path, command: Callable[[object], str], *, empties: bool = False
) -> measure.Cost:
    """Measure a shell command that copies a site's buffer to the endpoint's, or empties it, too."""
    with bench.site() as site:
        swap(pool, site.buffer)
        expected = len(relative_paths(site.buffer))
        cost = measure.cost(["sh", "-c", command(site)])
        if (found := len(relative_paths(site.far_buffer))) != expected:
            raise RuntimeError(f"{found} of {expected} files have arrived")
        swap(site.far_buffer if empties else site.buffer, pool)
    return cost


def rsync(bench: Bench, pool: Path) -> measure.Cost:
    """The peer: one rsync that removes what it sent."""
    return copied(bench, pool, lambda site: rsync_command(bench, site), empties=True)


def rsync_command(bench: Bench, site: object, *options: str) -> str:
    """The command line of an rsync that removes what it sent."""
    command = ["rsync", "-a", "--remove-source-files", "-e", bench.ssh, *options]
    return shlex.join([*command, f"{site.buffer}/", f"{bench.far}:{site.far_buffer}/"])


def rsyncs(bench: Bench, pool: Path) -> measure.Cost:
    """Several rsyncs at a time, each with its share of the files."""
    shares: list[list[str]] = [[] for _ in range(PROCESSES)]
    for number, rel in enumerate(sorted(relative_paths(pool))):
        shares[number % PROCESSES].append(rel)
    lists = [bench.directory / f"share-{number}" for number in range(PROCESSES)]
    for path, share in zip(lists, shares, strict=True):
        path.write_text("".join(f"{rel}\n" for rel in share))
    return copied(
        bench,
        pool,
        lambda site: " & ".join(
            [*(rsync_command(bench, site, f"--files-from={path}") for path in lists), "wait"]
        ),
        empties=True,
    )


def tar(bench: Bench, pool: Path) -> measure.Cost:
    """The least: two tars, one connection, nothing verified or made durable."""
    remote = f"{bench.ssh} -l {bench.server.user} {bench.server.host}"
    return copied(
        bench,
        pool,
        lambda site: f"tar -C {site.buffer} -cf - . | {remote} tar -C {site.far_buffer} -xf -",
    )


def scp(bench: Bench, pool: Path) -> measure.Cost:
    """One scp of everything."""
    return copied(
        bench,
        pool,
        lambda site: (
            f"scp -rpq {bench.server.options} {site.buffer}/* {bench.far}:{site.far_buffer}/"
        ),
    )


def rclone(bench: Bench, pool: Path) -> measure.Cost:
    """Over sftp by an ssh of its own; not verified: that is a program for each file."""
    server = bench.server
    command = (
        f"rclone copy --config /dev/null --transfers 8 --sftp-disable-hashcheck --sftp-port"
        f" {server.port} --sftp-host 127.0.0.1 --sftp-user {server.user} --sftp-key-file"
        f" {server.directory}/user_key"
    )
    return copied(bench, pool, lambda site: f"{command} {site.buffer} :sftp:{site.far_buffer}")


#: What is compared besides rsync; a program that is not installed is left out.
PEERS = {"tar | ssh tar": ("tar", tar), "scp": ("scp", scp), "rclone": ("rclone", rclone)}


def peers(bench: Bench, pool: Path) -> dict[str, measure.Side]:
    """rsync and the other programs that are here."""
    sides: dict[str, measure.Side] = {"rsync": lambda: rsync(bench, pool)}
    for name, (program, side) in PEERS.items():
        if shutil.which(program):
            sides[name] = lambda side=side: side(bench, pool)
        else:
            print(f"{program} is not installed here, and left out")
    return sides


def in_a_row(bench: Bench, pool: Path) -> measure.Cost:
    """The same steps, each on all files before the next: hash, send, verify, sync, place, hold."""
    with bench.site() as site:
        swap(pool, site.buffer)
        ssh = [*shlex.split(bench.ssh), "-l", bench.server.user, bench.server.host]
        with measure.metered() as meter:
            sums = b""
            for rel in relative_paths(site.buffer):
                content = hashlib.blake2b()
                with open(site.buffer / rel, "rb", buffering=0) as file:
                    while block := file.read(1 << 20):
                        content.update(block)
                sums += f"{content.hexdigest()}  {rel}\n".encode()
            subprocess.run(
                ["rsync", "-a", "-e", bench.ssh, f"{site.buffer}/", f"{bench.far}:{site.staging}/"],
                check=True,
                stdin=subprocess.DEVNULL,
            )
            there = f"cd {site.staging} && b2sum -c --quiet && sync -f . && mv * {site.far_buffer}/"
            subprocess.run([*ssh, f"{there} && sync -f ."], input=sums, check=True)
            for rel in relative_paths(site.buffer):
                held = site.holding / rel
                held.parent.mkdir(parents=True, exist_ok=True)
                os.rename(site.buffer / rel, held)
            os.sync()
        swap(site.holding, pool)
    return meter.cost


def ours(bench: Bench, pool: Path, transfer: str) -> measure.Cost:
    """dbb-handoff; checked to have delivered and held everything."""
    with bench.site(transfer) as site:
        swap(pool, site.buffer)
        expected = len(relative_paths(site.buffer))
        cost = measure.cost([*measure.script("dbb-handoff"), "-c", str(site.config)])
        for place in (site.far_buffer, site.holding):
            found = len(relative_paths(place))
            if found != expected:
                raise RuntimeError(f"{found} of {expected} files in {place}")
        swap(site.holding, pool)
    return cost


def small(bench: Bench) -> None:
    """Small files: connections, verification and durability are what they cost."""
    files = 10_250 // bench.less
    pool = bench.pool(files, 64 * 1024, 50)
    sides = {**peers(bench, pool), **bench.ours(pool)}
    bench.show(
        f"{files:,} files of 64 KiB in 50 directories",
        bench.in_turn(sides),
        wanted="<= 1.15",
        wanted_cpu="<= 1.3",
        amount=files,
        unit="files",
    )
    shutil.rmtree(pool)


def large(bench: Bench) -> None:
    """Large files: two hashes and what copies them share the processors."""
    files = 410 // bench.less
    pool = bench.pool(files, 4 * 1024 * 1024, 5)
    sides = {**peers(bench, pool), **bench.ours(pool)}
    sides["its steps in a row"] = lambda: in_a_row(bench, pool)
    bench.show(
        f"{files} files of 4 MiB",
        bench.in_turn(sides),
        wanted=">= 0.95",
        amount=files * 4,
        unit="MiB",
        rate=True,
    )
    shutil.rmtree(pool)


def wan(bench: Bench) -> None:
    """A line whose round trip takes 150 ms: waiting is what everything costs."""
    print("\nbbcp is left out: it opens connections of its own, which a relay does not delay")
    with delayed(bench) as far:
        for files, size, directories, wanted in (
            (2050 // bench.less, 64 * 1024, 50, ">= 4"),
            (max(8, 102 // bench.less), 4 * 1024 * 1024, 5, ">= 2.5"),
        ):
            pool = far.pool(files, size, directories)
            costs = far.in_turn(
                {
                    "rsync": lambda pool=pool: rsync(far, pool),
                    f"rsync, {PROCESSES} at a time": lambda pool=pool: rsyncs(far, pool),
                    **far.ours(pool),
                }
            )
            far.show(
                f"{files:,} files of {size // 1024} KiB, each direction delayed by 75 ms",
                costs,
                wanted=wanted,
                amount=files,
                unit="files",
                rate=True,
            )
            shutil.rmtree(pool)


@contextmanager
def delayed(bench: Bench) -> Iterator[Bench]:
    """The same server at the end of a slow line; what the line itself costs is not counted."""
    command = [sys.executable, str(measure.ROOT / "benchmarks" / "delayed_line.py")]
    with subprocess.Popen(
        [*command, str(bench.server.port), str(DELAY)], stdout=subprocess.PIPE
    ) as line:
        measure.left_out.add(line.pid)
        try:
            far = copy.copy(bench.server)
            far.port = int(line.stdout.readline())
            known = bench.server.directory / "known_hosts"
            with known.open("a") as file:
                file.write(f"[127.0.0.1]:{far.port} {known.read_text().split(maxsplit=1)[1]}")
            far.config = bench.server.directory / "delayed_config"
            far.config.write_text(
                bench.server.config.read_text().replace(
                    f"Port {bench.server.port}\n", f"Port {far.port}\n"
                )
            )
            yield replace(bench, server=far)
        finally:
            line.kill()


def lingering(bench: Bench) -> None:
    """How soon a file that arrives while a pass lingers is at the endpoint."""
    rows = [("", "median", "slowest", "wanted")]
    with delayed(bench) as far:
        for line, where in (("loopback", bench), ("delayed by 75 ms", far)):
            for way in bench.given.transfer:
                took = arrivals(where, way)
                shown = (f"{statistics.median(took):.2f} s", f"{max(took):.2f} s")
                rows.append((f"{line}, {way}", *shown, "<= 1.5 s" if where is bench else ""))
    print(f"\none file that arrives while lingering is at the endpoint within, {ARRIVALS} files")
    measure.print_rows(rows)


def arrivals(bench: Bench, transfer: str) -> list[float]:
    """Seconds from the arrival of a file in the buffer until it is in the endpoint's."""
    with bench.site(transfer) as site:
        command = [*measure.script("dbb-handoff"), "-c", str(site.config), "--linger", "1h"]
        with (
            tempfile.TemporaryFile() as said,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            ) as process,
        ):
            try:
                arrival(site, 0)  # the first one makes the directory and the connection
                took = []
                for number in range(1, 1 + max(2, ARRIVALS // bench.less)):
                    # The pass before ends, and the next look for work may come at any moment.
                    time.sleep(random.uniform(3, 8))
                    took.append(arrival(site, number))
                return took
            finally:
                process.terminate()


def arrival(site: object, number: int) -> float:
    """Seconds until a new file of 64 KiB is in the endpoint's buffer."""
    rel = f"2026-11-30/AT_O_{number:08}.fits"
    written = site.root / "written"
    written.write_bytes(os.urandom(65536))
    (site.buffer / rel).parent.mkdir(exist_ok=True)
    begin = time.perf_counter()
    written.rename(site.buffer / rel)
    while not (site.far_buffer / rel).exists():
        if time.perf_counter() > begin + LONGEST:
            raise RuntimeError(f"{rel} does not arrive")
        time.sleep(0.001)
    return time.perf_counter() - begin


def undelivered(bench: Bench) -> None:
    """What a pass reads of files that an earlier pass hashed and could not deliver."""
    files = 1000 // bench.less
    pool = bench.pool(files, 64 * 1024, 5)
    rows = [("", "seconds", "MiB read", "wanted")]
    keys = {"handoff": {"retry_wait": "0s"}, "endpoint": {"transfer": "false {batch} {dest}"}}
    with bench.site(**keys) as site:
        swap(pool, site.buffer)
        command = [*measure.script("dbb-handoff"), "-c", str(site.config)]
        nothing = bytes_read(lambda: measure.cost([*command, "--dry-run", "--limit", "1"]))[1]
        for name, wanted in (("first pass", f"{files / 16:.0f}"), ("second pass", "0")):
            took, read = bytes_read(lambda: measure.cost(command, codes=(0, 1, 75)))
            rows.append((name, f"{took.wall:.2f}", f"{max(0, read - nothing) / 2**20:.1f}", wanted))
        swap(site.buffer, pool)
    print(f"\n{files:,} files of 64 KiB and a transfer command that always fails")
    measure.print_rows(rows)
    shutil.rmtree(pool)


def million(bench: Bench) -> None:
    """A buffer that filled for a month: memory, and how soon the first file arrives."""
    files = 1_000_000 // bench.less
    with bench.site() as site:
        measure.make_files(site.buffer, files, 16, 1000)
        first: list[float] = []
        memory: list[float] = []
        begin = time.perf_counter()
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.05):
                if any(names for _, _, names in os.walk(site.far_buffer)):
                    first.append(time.perf_counter() - begin)
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        command = [*measure.script("dbb-handoff"), "-c", str(site.config), "--max-time", "90s"]
        took = measure.cost(command, memory=memory)
        over.set()
        watcher.join()
        delivered = len(relative_paths(site.far_buffer))
    print(f"\n{files:,} files in the buffer, --max-time 90s")
    arrived = f"{first[0]:.1f} s" if first else "never"
    measure.print_rows(
        [
            ("", "figure", "wanted"),
            ("first file in the endpoint's buffer after", arrived, "<= 30 s"),
            ("peak memory of the pass or a child of it", f"{memory[0]:.0f} MiB", "<= 150 MiB"),
            ("delivered", f"{delivered:,}", ""),
            ("duration of the pass", f"{took.wall:.1f} s", ""),
        ]
    )


def swap(source: Path, target: Path) -> None:
    """Rename a tree to where an empty directory may be, and leave an empty one behind."""
    if target.exists():
        shutil.rmtree(target)
    source.rename(target)
    source.mkdir()


def relative_paths(directory: Path) -> list[str]:
    """All files below, relative to it."""
    return [
        os.path.relpath(os.path.join(top, name), directory)
        for top, _, names in os.walk(directory)
        for name in names
    ]


def bytes_read(run: measure.Side) -> tuple[measure.Cost, int]:
    """What a run cost, and bytes that its processes asked to read."""
    before = measure.read_so_far()
    took = run()
    return took, measure.read_so_far() - before


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this benchmark understands besides."""
    parser.add_argument(
        "--transfer",
        action="append",
        choices=("rsync", "stream"),
        help="how dbb-handoff sends: by rsync, or by itself (default: both)",
    )
    parser.add_argument(
        "--side", action="append", metavar="WORD", help="only sides that have it in their name"
    )


def main() -> None:
    """Print a table for each part."""
    given = measure.arguments(__doc__, PARTS, add_arguments)
    given.transfer = given.transfer or ["stream", "rsync"]
    from tests.support import ssh

    if what := ssh.missing():
        sys.exit(what)
    with measure.working_directory(given.directory) as directory:
        (directory / "ssh").mkdir()
        server = ssh.SshServer(directory / "ssh")
        server.start()
        try:
            bench = Bench(directory, server, given)
            for part in given.part or PARTS:
                {
                    "small": small,
                    "large": large,
                    "wan": wan,
                    "lingering": lingering,
                    "undelivered": undelivered,
                    "million": million,
                }[part](bench)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
