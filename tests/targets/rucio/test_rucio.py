"""Files registered with a real Rucio server."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rucio.common.exception import InvalidObject

from dbbbatch.files import checksum
from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome
from dbbbatch.targets.rucio.registrar import Registrar
from tests.targets.offering import digest, offered, results, started, stored
from tests.targets.rucio.conftest import Element

NIGHTLY = {"pattern": r"^(?P<night>\d{8})/", "dataset": "night-{night}"}


def made(element: Element, rel: str = "20251123/a.fits", content: bytes = b"some data") -> Path:
    path = element.directory / rel
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def ingest(element: Element, *paths: Path, **config: Any) -> list[Outcome]:
    with started("rucio", element.directory, **element.config | config) as plugin:
        return offered(plugin, *paths, storage=element.directory)


def test_first_registration_leaves_the_file_where_it_lies(element: Element) -> None:
    path = made(element)
    before = digest(path)
    (outcome,) = ingest(element, path)
    assert outcome.result.value == "done"
    assert outcome.message == f"{element.scope}:20251123/a.fits on {element.rse}"
    assert element.replicas() == {"20251123/a.fits": (f"file://localhost{path}",)}
    assert digest(path) == before


def test_size_and_checksums_are_registered_and_handed_back(element: Element) -> None:
    (outcome,) = ingest(element, made(element))
    sums = {
        "adler32": f"{zlib.adler32(b'some data'):08x}",
        "md5": hashlib.md5(b"some data").hexdigest(),
    }
    assert outcome.checksums == sums
    (held,) = element.client.get_metadata_bulk(
        [{"scope": element.scope, "name": "20251123/a.fits"}]
    )
    assert {name: held[name] for name in sums} == sums
    assert held["bytes"] == 9


def test_known_checksums_are_not_computed_again(element: Element) -> None:
    path = made(element)
    known = {"adler32": "0F0F0F0F", "md5": "0" * 32, "blake2b": "ff"}
    with started("rucio", element.directory, **element.config) as plugin:
        (outcome,) = offered(plugin, path, storage=element.directory, checksums=known)
    assert outcome.checksums == {}
    (held,) = element.client.get_metadata_bulk(
        [{"scope": element.scope, "name": "20251123/a.fits"}]
    )
    assert (held["adler32"], held["md5"]) == ("0f0f0f0f", "0" * 32)


def test_repeat_finds_it_there(element: Element) -> None:
    path = made(element)
    ingest(element, path, **NIGHTLY)
    (outcome,) = ingest(element, path, **NIGHTLY)
    assert outcome.result.value == "already"
    assert len(element.replicas()) == 1
    assert element.content("night-20251123") == ["20251123/a.fits"]


def test_file_that_differs_from_the_registered_one_is_refused(element: Element) -> None:
    path = made(element)
    ingest(element, path)
    made(element, content=b"other data")
    (outcome,) = ingest(element, path)
    assert outcome.result.value == "failed"
    assert "bytes 9 there, 10 here" in outcome.message
    assert f"adler32 {zlib.adler32(b'some data'):08x} there" in outcome.message


def test_replica_in_another_place_is_refused(element: Element) -> None:
    ingest(element, made(element, "20251123/a.fits"), name="{filename}")
    (outcome,) = ingest(element, made(element, "20251124/a.fits"), name="{filename}")
    assert outcome.result.value == "failed"
    assert "20251123/a.fits, not at file://localhost" in outcome.message


def test_name_registered_as_a_dataset_is_refused(element: Element) -> None:
    element.client.add_dataset(element.scope, "20251123/a.fits")
    (outcome,) = ingest(element, made(element))
    assert outcome.result.value == "failed"
    assert "it is a DATASET" in outcome.message


def test_file_known_from_another_element_gets_a_replica_here(element: Element) -> None:
    path = made(element)
    ingest(element, path, rse=other_element(element))
    assert results(ingest(element, path)) == ["done"]
    assert results(ingest(element, path)) == ["already"]


def test_a_dataset_a_night(element: Element) -> None:
    files = [made(element, f"2025112{night}/{n}.fits") for night in (3, 4) for n in (1, 2)]
    assert results(ingest(element, *files, **NIGHTLY)) == ["done"] * 4
    assert element.content("night-20251123") == ["20251123/1.fits", "20251123/2.fits"]
    assert element.content("night-20251124") == ["20251124/1.fits", "20251124/2.fits"]


def test_dataset_that_was_removed_meanwhile_is_made_again(element: Element) -> None:
    with started("rucio", element.directory, **element.config | NIGHTLY) as plugin:
        offered(plugin, made(element, "20251123/1.fits"), storage=element.directory)
        plugin._registrar._ready.add((element.scope, "night-20251124"))
        second = made(element, "20251124/1.fits")
        (outcome,) = offered(plugin, second, storage=element.directory)
        assert outcome.result.value == "partly"
        (outcome,) = offered(
            plugin, second, storage=element.directory, parts_done=outcome.parts_done
        )
        assert outcome.result.value == "already"
    assert element.content("night-20251124") == ["20251124/1.fits"]


def test_file_outside_the_pattern_is_never_registered(element: Element) -> None:
    (outcome,) = ingest(element, made(element, "calib/a.fits"), **NIGHTLY)
    assert outcome.result.value == "never"
    assert "does not match its path" in outcome.message


def test_closed_dataset_leaves_the_file_partly_done(element: Element) -> None:
    element.client.add_dataset(element.scope, "night-20251123")
    element.client.close(element.scope, "night-20251123")
    (outcome,) = ingest(element, made(element), **NIGHTLY)
    assert (outcome.result.value, outcome.parts_done) == ("partly", {"replica"})
    assert "dataset: UnsupportedOperation" in outcome.message
    assert len(element.replicas()) == 1


def test_only_the_missing_part_is_repeated(element: Element) -> None:
    path = made(element)
    ingest(element, path)
    with started("rucio", element.directory, **element.config | NIGHTLY) as plugin:
        calls = _counted(plugin)
        done = frozenset({"replica"})
        (outcome,) = offered(plugin, path, storage=element.directory, parts_done=done)
    assert outcome.result.value == "already"
    assert calls["add_replicas"] == 0
    assert element.content("night-20251123") == ["20251123/a.fits"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_file_that_cannot_be_read_is_charged_unless_all_are_to_blame(
    element: Element, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def compute(file: Any, *more: Any, real: Any = checksum.compute) -> Any:
        if file.name == "bad.fits":
            raise OSError(number, os.strerror(number), file.path)
        return real(file, *more)

    monkeypatch.setattr(checksum, "compute", compute)
    files = made(element, "bad.fits"), made(element, "good.fits")
    if number == errno.ESTALE:
        with pytest.raises(NotReady, match="Stale file handle"):
            ingest(element, *files)
    else:
        assert results(ingest(element, *files)) == ["failed", "done"]


def test_bad_names_do_not_stop_their_neighbours(element: Element) -> None:
    good = [made(element, f"20251123/{n}.fits") for n in range(8)]
    bad = [made(element, "20251123/a b.fits"), made(element, "20251123/$(touch x).fits")]
    gone = element.directory / "20251123" / "gone.fits"
    outcomes = ingest(element, *good[:3], bad[0], gone, *good[3:], bad[1], **NIGHTLY)
    assert results(outcomes) == [*["done"] * 3, "never", "failed", *["done"] * 5, "never"]
    assert "InvalidObject" in outcomes[3].message
    assert len(element.content("night-20251123")) == 8


def test_name_that_is_not_utf8_is_refused(element: Element) -> None:
    path = made(element, os.fsdecode(b"20251123/\xff.fits"))
    (outcome,) = ingest(element, path)
    assert outcome.result.value == "never"


def test_two_files_of_one_name(element: Element) -> None:
    pair = made(element, "a/x.fits"), made(element, "b/x.fits")
    outcomes = ingest(element, *pair, name="{filename}")
    assert results(outcomes) == ["done", "failed"]
    assert "has the name of" in outcomes[1].message


def test_pfn_outside_the_element_is_refused(element: Element, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere.fits"
    outside.write_bytes(b"x")
    with started("rucio", tmp_path, **element.config, name="{filename}") as plugin:
        (outcome,) = offered(plugin, outside, storage=tmp_path)
    assert outcome.result.value == "failed"
    assert "RSEFileNameNotSupported" in outcome.message


def test_three_calls_for_a_batch(element: Element) -> None:
    files = [made(element, f"20251123/{n}.fits") for n in range(20)]
    element.client.add_dataset(element.scope, "night-20251123")
    with started("rucio", element.directory, **element.config | NIGHTLY) as plugin:
        calls = _counted(plugin)
        offered(plugin, *files, storage=element.directory)
    assert calls == {"get_metadata_bulk": 1, "add_replicas": 1, "add_files_to_datasets": 1}


def test_bulks_are_as_large_as_configured(element: Element) -> None:
    files = [made(element, f"20251123/{n}.fits") for n in range(7)]
    with started("rucio", element.directory, **element.config | {"bulk": 3}) as plugin:
        calls = _counted(plugin)
        assert results(offered(plugin, *files, storage=element.directory)) == ["done"] * 7
    assert calls["add_replicas"] == 3


def _counted(plugin: Any) -> Counter[str]:
    """Count the calls that a plugin makes from now on."""
    calls: Counter[str] = Counter()
    client = plugin._registrar._client

    class Counting:
        def __getattr__(self, name: str) -> Any:
            calls[name] += 1
            return getattr(client, name)

    plugin._registrar._client = Counting()
    return calls


def test_metadata(element: Element) -> None:
    metadata = {"datatype": "raw-{stem}", "project": "trial"}
    ingest(element, made(element), metadata=metadata)
    held = element.client.get_metadata(element.scope, "20251123/a.fits")
    assert (held["datatype"], held["project"]) == ("raw-a", "trial")


def test_metadata_that_the_server_does_not_know(element: Element) -> None:
    with pytest.raises(Misconfigured, match="InvalidMetadata"):
        ingest(element, made(element), metadata={"colour": "blue"})
    assert element.replicas() == {}


@pytest.mark.promise
def test_metadata_of_new_files_comes_with_them(element: Element) -> None:
    files = [made(element, f"20251123/{n}.fits") for n in range(3)]
    config = element.config | {"metadata": {"datatype": "raw-{stem}"}}
    with started("rucio", element.directory, **config) as plugin:
        calls = _counted(plugin)
        offered(plugin, *files, storage=element.directory)
    assert calls == {"get_metadata_bulk": 1, "add_replicas": 1}
    held = element.client.get_metadata(element.scope, "20251123/2.fits")
    assert held["datatype"] == "raw-2"


def test_metadata_of_a_file_that_the_server_knows_already(element: Element) -> None:
    path = made(element)
    ingest(element, path, rse=other_element(element))
    (outcome,) = ingest(element, path, metadata={"datatype": "raw-{stem}"})
    assert outcome.result.value == "done"
    assert element.client.get_metadata(element.scope, "20251123/a.fits")["datatype"] == "raw-a"


@pytest.mark.parametrize(("key", "value"), [("bytes", 10), ("adler32", "deadbeef")])
def test_replica_that_is_not_what_the_file_is_is_refused(
    element: Element, key: str, value: Any
) -> None:
    """Servers keep size and checksums of each replica, too, and some return those."""
    path = made(element)
    ingest(element, path)
    with started("rucio", element.directory, **element.config) as plugin:
        client = plugin._registrar._client
        real = client.list_replicas
        client.list_replicas = lambda *of, **how: [one | {key: value} for one in real(*of, **how)]
        (outcome,) = offered(plugin, path, storage=element.directory)
        sums = {"adler32": f"{zlib.adler32(b'some data'):08x}"}
        files = stored(path, storage=element.directory, checksums=sums)
        assert list(plugin.known(files)) == [(1, False)]
    assert outcome.result.value == "failed"
    assert f"is on {element.rse} already and differs: {key} {value} there" in outcome.message


@pytest.mark.parametrize("columns", [{}, {"plugin": "DID_COLUMN"}])
def test_columns_are_asked_for_by_name_where_the_client_takes_it(columns: dict[str, str]) -> None:
    """Clients of Rucio 35 have no such argument; those of 38 have another default."""
    asked: list[dict[str, str]] = []

    class Client:
        def get_metadata_bulk(self, dids: Any, inherit: bool = False) -> list[Any]:
            asked.append({})
            return []

    class NamingClient:
        def get_metadata_bulk(
            self, dids: Any, inherit: bool = False, plugin: str = "JSON"
        ) -> list[Any]:
            asked.append({"plugin": plugin})
            return []

    client = NamingClient() if columns else Client()
    assert Registrar(client, None).there([("raw", "a")]) == {}
    assert asked == [columns]


def test_server_that_allows_no_slash_is_a_matter_of_the_configuration(element: Element) -> None:
    pattern = r"^[A-Za-z0-9][A-Za-z0-9\.\-\_]*$"
    path = made(element)

    def refuse(*arguments: Any) -> None:
        raise InvalidObject(
            f"Problem validating dids: '20251123/a.fits' does not match '{pattern}'"
        )

    with started("rucio", element.directory, **element.config) as plugin:
        plugin._registrar._client.add_replicas = refuse
        with pytest.raises(
            Misconfigured, match=r'name: .* no / in names.*"\{night\}_\{filename\}"'
        ):
            offered(plugin, path, storage=element.directory)
    name = {"pattern": NIGHTLY["pattern"], "name": "{night}_{filename}"}
    assert results(ingest(element, path, **name)) == ["done"]
    assert set(element.replicas()) == {"20251123_a.fits"}


def test_rule_for_each_new_dataset(element: Element) -> None:
    element.client.set_local_account_limit("root", element.rse, 10**12)
    rule = {"rule_rses": element.rse, "rule_lifetime": "30d"}
    for _ in range(2):
        ingest(element, made(element), **NIGHTLY, **rule)
    (found,) = element.client.list_did_rules(element.scope, "night-20251123")
    assert (found["rse_expression"], found["copies"]) == (element.rse, 1)


def test_rule_for_each_file_without_a_dataset(element: Element) -> None:
    element.client.set_local_account_limit("root", element.rse, 10**12)
    first, second = made(element, "1.fits"), made(element, "2.fits")
    ingest(element, first)
    for _ in range(2):
        ingest(element, first, second, rule_rses=element.rse)
    for name in ("1.fits", "2.fits"):
        assert len(list(element.client.list_did_rules(element.scope, name))) == 1


def test_rule_beyond_the_quota_is_for_later(element: Element) -> None:
    with pytest.raises(NotReady, match="InsufficientAccountLimit"):
        ingest(element, made(element), **NIGHTLY, rule_rses=element.rse)
    assert element.replicas() == {}


def test_known_tells_what_is_registered(element: Element) -> None:
    first, second = made(element, "1.fits"), made(element, "2.fits")
    with started("rucio", element.directory, **element.config) as plugin:
        offered(plugin, first, storage=element.directory)
        found = plugin.known(stored(first, second, storage=element.directory))
        assert dict(found) == {1: True, 2: False}


@pytest.mark.promise
def test_known_compares_what_the_server_has(element: Element) -> None:
    path = made(element)
    sums = {"adler32": f"{zlib.adler32(b'some data'):08X}", "blake2b": "00"}
    ingest(element, path)
    assert known(element, path) == [True]
    assert known(element, path, checksums=sums) == [True]
    assert known(element, path, checksums=sums | {"adler32": "deadbeef"}) == [False]
    assert known(element, path, checksums={"md5": "00"}) == [False]
    made(element, content=b"longer data")
    assert known(element, path) == [False]


def test_known_compares_where_it_is(element: Element) -> None:
    ingest(element, made(element, "1/a.fits"), name="{filename}")
    assert known(element, made(element, "2/a.fits"), name="{filename}") == [False]


def test_known_is_of_this_element(element: Element) -> None:
    path = made(element)
    ingest(element, path, rse=other_element(element))
    assert known(element, path) == [False]


def test_known_tells_of_names_that_cannot_be_there(element: Element) -> None:
    odd = made(element, os.fsdecode(b"20251123/\xff.fits"))
    assert known(element, odd, made(element), made(element, "x"), **NIGHTLY) == [False] * 3


def known(element: Element, *paths: Path, **config: Any) -> list[bool]:
    """Return what the plugin answers the auditor about files."""
    more = {"checksums": config.pop("checksums")} if "checksums" in config else {}
    with started("rucio", element.directory, **element.config | config) as plugin:
        return [
            there for _, there in plugin.known(stored(*paths, storage=element.directory, **more))
        ]


def other_element(element: Element) -> str:
    """Return a second element for the same directory."""
    element.client.add_rse(f"{element.rse}B", deterministic=False, rse_type="DISK")
    element.client.add_protocol(f"{element.rse}B", element.client.get_protocols(element.rse)[0])
    return f"{element.rse}B"


def test_four_workers_at_once(element: Element) -> None:
    files = [str(made(element, f"20251123/{n}.fits")) for n in range(40)]
    # Neighbours share half of their files, and all make the same dataset.
    shares = [
        (str(element.directory), element.config | NIGHTLY, files[n : n + 20])
        for n in (0, 10, 20, 20)
    ]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.starmap(_ingest_apart, shares)
    assert {result for share in found for result in share} <= {"done", "already"}
    assert len(element.replicas()) == 40
    assert len(element.content("night-20251123")) == 40


def test_killed_before_its_success_was_recorded(element: Element) -> None:
    files = [str(made(element, f"20251123/{n}.fits")) for n in range(5)]
    child = multiprocessing.get_context("spawn").Process(
        target=_ingest_and_die, args=(str(element.directory), element.config | NIGHTLY, files)
    )
    child.start()
    child.join()
    assert child.exitcode == -9
    assert results(ingest(element, *map(Path, files), **NIGHTLY)) == ["already"] * 5
    assert len(element.content("night-20251123")) == 5


def test_killed_between_registration_and_attachment(element: Element) -> None:
    path = made(element)
    ingest(element, path)
    assert results(ingest(element, path, **NIGHTLY)) == ["already"]
    assert element.content("night-20251123") == ["20251123/a.fits"]


def _ingest_apart(directory: str, config: dict[str, Any], paths: list[str]) -> list[str]:
    with started("rucio", Path(directory), **config) as plugin:
        return results(offered(plugin, *map(Path, paths), storage=Path(directory)))


def _ingest_and_die(directory: str, config: dict[str, Any], paths: list[str]) -> None:
    with started("rucio", Path(directory), **config) as plugin:
        for _ in plugin.ingest(stored(*map(Path, paths), storage=Path(directory))):
            os.kill(os.getpid(), 9)


class TestAway:
    """A server that is away costs no file an attempt."""

    def test_down_and_back(self, element: Element) -> None:
        first, second = made(element, "1.fits"), made(element, "2.fits")
        with started("rucio", element.directory, **element.config) as plugin:
            assert results(offered(plugin, first, storage=element.directory)) == ["done"]
            with element.server.down(), pytest.raises(NotReady, match="ServerConnectionException"):
                offered(plugin, second, storage=element.directory)
            assert results(offered(plugin, second, storage=element.directory)) == ["done"]

    def test_down_at_the_start(self, element: Element) -> None:
        with element.server.down(), pytest.raises(NotReady, match="ServerConnectionException"):
            ingest(element, made(element))

    def test_hanging(self, element: Element) -> None:
        path = made(element)
        with started("rucio", element.directory, **element.config | {"timeout": 0.2}) as plugin:
            files = stored(path, storage=element.directory)
            with element.server.frozen(), pytest.raises(NotReady, match="ime"):
                list(plugin.ingest(files))
        assert results(ingest(element, path)) in (["done"], ["already"])


class TestStartRefuses:
    """What a plugin says that cannot work as configured."""

    @pytest.mark.parametrize(
        ("config", "says"),
        [
            ({"rse": "NOWHERE"}, "RSENotFound"),
            ({"password": "wrong"}, "CannotAuthenticate"),
            ({"account": "nobody"}, "CannotAuthenticate"),
            ({"dataset": "{night}"}, r"dataset: \{night\} has no value"),
            ({"metadata": {"run": "{n}"}}, r"metadata.run: \{n\} has no value"),
            ({"url": "rucio.example.org"}, "Protocol"),
        ],
    )
    def test_a_wrong_key(self, element: Element, config: dict[str, Any], says: str) -> None:
        with pytest.raises(Misconfigured, match=says):
            ingest(element, made(element), **config)

    def test_neither_a_server_nor_a_rucio_cfg(self, element: Element, tmp_path: Path) -> None:
        with pytest.raises(Misconfigured, match=r"the server of rucio.cfg: \w+"):
            ingest(element, made(element), url="")

    def test_a_scope_that_does_not_exist(self, element: Element) -> None:
        with pytest.raises(Misconfigured, match="ScopeNotFound"):
            ingest(element, made(element), scope="nowhere")

    def test_without_showing_the_password(self, element: Element) -> None:
        with pytest.raises(Misconfigured) as caught:
            ingest(element, made(element), password="t0psecret")
        assert "t0psecret" not in str(caught.value)
