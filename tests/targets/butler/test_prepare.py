"""From nothing to a repository that raw files can be ingested into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lsst.daf.butler import Butler, CollectionType, DatasetType

from dbbbatch.errors import ConfigError
from dbbbatch.targets.butler import instruments
from dbbbatch.targets.plugin import Misconfigured, NotReady
from tests.targets.butler.preparing import prepared
from tests.targets.observations import HSC, LATISS, latiss, rubin, write
from tests.targets.offering import offered, results, started


def test_makes_a_repository(tmp_path: Path) -> None:
    repo = tmp_path / "deep" / "repo.v2"
    assert prepared(repo, "LATISS") == [
        f"repository {repo}",
        "instrument LATISS",
        "1 detectors of LATISS",
        "707 filters of LATISS",
        "dataset type raw (RawFits)",
        "collection LATISS/raw/all",
    ]
    with started("butler-gen3", tmp_path, repo=str(repo)) as plugin:
        assert results(offered(plugin, latiss(tmp_path))) == ["done"]


def test_repeated_does_nothing(tmp_path: Path) -> None:
    repo = str(tmp_path / "repo")
    prepared(repo, "LATISS")
    assert prepared(repo, "LATISS") == []


@pytest.mark.parametrize(
    ("camera", "count"), [("LSSTCam", 205), ("LSSTComCam", 9), ("HSC", 112), ("DECam", 62)]
)
def test_completes_one_with_another_camera(sqlite_repo: Path, camera: str, count: int) -> None:
    prepared(sqlite_repo, camera)
    records = Butler.from_config(str(sqlite_repo)).query_dimension_records(
        "detector", where="instrument = :camera", bind={"camera": camera}
    )
    assert len(records) == count
    assert len({record.full_name for record in records}) == count


def registered(repo: Path, element: str, camera: str) -> list[Any]:
    return Butler.from_config(str(repo)).query_dimension_records(
        element, where="instrument = :camera", bind={"camera": camera}, limit=None, explain=False
    )


def test_latiss_has_no_raft(sqlite_repo: Path) -> None:
    (detector,) = registered(sqlite_repo, "detector", "LATISS")
    found = (detector.full_name, detector.raft, detector.name_in_raft)
    assert found == ("RXX_S00", None, "RXX_S00")


@pytest.mark.parametrize(
    ("camera", "exposures", "detectors"),
    [("DECam", 2**25, 100), ("HSC", 21474800, 200), ("LATISS", 7050123199999, 1)],
)
def test_limits_are_those_of_the_stack(
    sqlite_repo: Path, camera: str, exposures: int, detectors: int
) -> None:
    (record,) = registered(sqlite_repo, "instrument", camera)
    found = (record.visit_max, record.exposure_max, record.detector_max)
    assert found == (exposures, exposures, detectors)


def test_filters_have_the_bands_of_the_stack(sqlite_repo: Path) -> None:
    filters = registered(sqlite_repo, "physical_filter", "HSC")
    assert {one.name: one.band for one in filters} == instruments.filters("HSC")


class TestRecordsThatDiffer:
    """Somebody else has registered the instrument, or a part of it, otherwise."""

    @pytest.fixture
    def guessed_repo(self, sqlite_repo: Path) -> Path:
        row = {"instrument": "HSC", "name": "NB0921", "band": "n"}
        butler = Butler.from_config(str(sqlite_repo), writeable=True)
        butler.registry.syncDimensionData("physical_filter", row, update=True)
        return sqlite_repo

    def bands(self, repo: Path) -> dict[str, str]:
        return {one.name: one.band for one in registered(repo, "physical_filter", "HSC")}

    def test_are_left_and_explained(self, guessed_repo: Path) -> None:
        with pytest.raises(ConfigError, match=r"NB0921.*'n' != 'N921'.*--update"):
            prepared(guessed_repo, "HSC")
        assert self.bands(guessed_repo)["NB0921"] == "n"

    def test_are_updated_if_so_asked(self, guessed_repo: Path) -> None:
        assert prepared(guessed_repo, "HSC", update=True) == ["1 filters of HSC"]
        assert self.bands(guessed_repo)["NB0921"] == "N921"

    def test_filter_that_was_not_known_is_completed(self, sqlite_repo: Path) -> None:
        row = {"instrument": "HSC", "name": "NB0921", "band": "NB0921"}
        butler = Butler.from_config(str(sqlite_repo), writeable=True)
        butler.registry.syncDimensionData("physical_filter", row, update=True)
        assert prepared(sqlite_repo, "HSC") == ["1 filters of HSC"]
        assert self.bands(sqlite_repo)["NB0921"] == "N921"

    def test_limits_of_an_instrument(self, sqlite_repo: Path) -> None:
        row = {"name": "DECam", "class_name": "lsst.obs.decam.DarkEnergyCamera", "visit_system": 0}
        row |= {"visit_max": 2**31, "exposure_max": 2**31, "detector_max": 64}
        butler = Butler.from_config(str(sqlite_repo), writeable=True)
        butler.registry.syncDimensionData("instrument", row, update=True)
        with pytest.raises(ConfigError, match=r"detector_max: 64 != 100.*--update"):
            prepared(sqlite_repo, "DECam")
        assert prepared(sqlite_repo, "DECam", update=True) == ["instrument DECam"]


def test_half_made_repository_of_an_earlier_kill_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "unfinished-repo").mkdir()
    (tmp_path / "unfinished-repo" / "butler.yaml").write_text("half")
    prepared(tmp_path / "repo", "LATISS")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repo"]


def test_for_the_stack(tmp_path: Path) -> None:
    prepared(tmp_path / "repo", "LATISS", storage_class="Exposure")
    assert (
        Butler.from_config(str(tmp_path / "repo")).get_dataset_type("raw").storageClass_name
        == "Exposure"
    )
    with started("butler-gen3", tmp_path, repo=str(tmp_path / "repo")) as plugin:
        assert results(offered(plugin, latiss(tmp_path))) == ["done"]


def test_unknown_instrument_needs_samples(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"instrument 'SITECAM' is not known.*--files"):
        prepared(tmp_path / "repo", "SITECAM")


def test_detectors_of_decam_are_named_as_its_translator_names_them() -> None:
    from astro_metadata_translator.translators import DecamTranslator

    ours = {detector["id"]: detector["full_name"] for detector in instruments.detectors("DECam")}
    assert ours == DecamTranslator.detector_names | {61: "N30"}


def test_samples_add_nothing_that_is_known(tmp_path: Path, sqlite_repo: Path) -> None:
    sample = write(tmp_path / "hsc.fits", HSC)
    assert prepared(sqlite_repo, "HSC", files=[str(sample)]) == []


def test_sample_of_another_instrument(tmp_path: Path, sqlite_repo: Path) -> None:
    sample = latiss(tmp_path)
    with pytest.raises(ConfigError, match="is of LATISS, not of HSC"):
        prepared(sqlite_repo, "HSC", files=[str(sample)])


def test_sample_that_is_damaged(tmp_path: Path, sqlite_repo: Path) -> None:
    sample = tmp_path / "bad.fits"
    sample.write_bytes(b"bad")
    with pytest.raises(ConfigError, match=r"bad.fits: no FITS file"):
        prepared(sqlite_repo, "HSC", files=[str(sample)])


def test_instrument_of_the_sites_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecam.py").write_text(
        "from dbbbatch.targets.butler.rubin import Latiss\n"
        "class SiteCam(Latiss):\n"
        "    name = supported_instrument = 'SITECAM'\n"
        "    _known_as = frozenset({'sitecam'})\n"
        "    _const_map = {'instrument': 'SITECAM'}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cards = rubin(LATISS, 20250501, 7) | {"INSTRUME": "SiteCam"}
    sample = write(tmp_path / "own.fits", cards)
    done = prepared(tmp_path / "repo", "SITECAM", files=[str(sample)], translators=["sitecam"])
    assert "instrument SITECAM" in done
    assert "detector 0 of SITECAM (RXX_S00)" in done
    with started(
        "butler-gen3", tmp_path, repo=str(tmp_path / "repo"), translators=["sitecam"]
    ) as plugin:
        assert results(offered(plugin, sample)) == ["done"]


class TestStartRefuses:
    """What a plugin says when its repository is not as it should be."""

    def start(self, repo: Path, **config: object) -> None:
        with started("butler-gen3", repo.parent, repo=str(repo), **config):
            pass

    def test_a_repository_that_is_not_mounted(self, tmp_path: Path) -> None:
        with pytest.raises(NotReady, match=r"does not exist .not mounted.*dbb butler prepare"):
            self.start(tmp_path / "repo")

    def test_an_empty_mount_point(self, tmp_path: Path) -> None:
        (tmp_path / "repo").mkdir()
        with pytest.raises(NotReady, match=r"is empty .not mounted"):
            self.start(tmp_path / "repo")

    def test_a_directory_that_is_no_repository(self, tmp_path: Path) -> None:
        (tmp_path / "repo").mkdir()
        (tmp_path / "repo" / "file").touch()
        with pytest.raises(Misconfigured, match="there is no repository"):
            self.start(tmp_path / "repo")

    def test_a_broken_configuration(self, sqlite_repo: Path) -> None:
        (sqlite_repo / "butler.yaml").write_text("registry: [")
        with pytest.raises(Misconfigured, match="cannot be opened"):
            self.start(sqlite_repo)

    def test_a_database_that_is_gone(self, sqlite_repo: Path) -> None:
        (sqlite_repo / "gen3.sqlite3").unlink()
        with pytest.raises(NotReady, match=r"gen3.sqlite3 does not exist"):
            self.start(sqlite_repo)
        assert not (sqlite_repo / "gen3.sqlite3").exists()

    def test_an_unknown_alias(self) -> None:
        with pytest.raises(Misconfigured, match="there is no repository"):
            self.start(Path("nowhere"))

    def test_no_instrument(self, tmp_path: Path) -> None:
        Butler.makeRepo(str(tmp_path / "repo"))
        with pytest.raises(Misconfigured, match="has no instrument"):
            self.start(tmp_path / "repo")

    def test_no_such_dataset_type(self, sqlite_repo: Path) -> None:
        with pytest.raises(Misconfigured, match="has no dataset type 'frame'"):
            self.start(sqlite_repo, dataset_type="frame")

    def test_a_dataset_type_of_other_things(self, sqlite_repo: Path) -> None:
        butler = Butler.from_config(str(sqlite_repo), writeable=True)
        wanted = DatasetType("flat", {"instrument"}, "RawFits", universe=butler.dimensions)
        butler.registry.registerDatasetType(wanted)
        with pytest.raises(
            Misconfigured, match=r"dataset_type: 'flat' .* is of instrument, not of"
        ):
            self.start(sqlite_repo, dataset_type="flat")

    def test_a_collection_of_collections(self, sqlite_repo: Path) -> None:
        butler = Butler.from_config(str(sqlite_repo), writeable=True)
        butler.collections.register("LATISS/defaults", CollectionType.CHAINED)
        with pytest.raises(Misconfigured, match=r"run: collection .* is CHAINED"):
            self.start(sqlite_repo, run="{instrument}/defaults")

    def test_a_formatter_that_cannot_be_imported(self, sqlite_repo: Path) -> None:
        with pytest.raises(Misconfigured, match=r"formatter = 'no.Such'"):
            self.start(sqlite_repo, formatter="no.Such")

    def test_translators_that_cannot_be_imported(self, sqlite_repo: Path) -> None:
        with pytest.raises(Misconfigured, match="translators: No module named 'nowhere'"):
            self.start(sqlite_repo, translators=["nowhere"])

    def test_a_stack_that_is_not_installed(self, sqlite_repo: Path) -> None:
        with pytest.raises(Misconfigured, match=r"task = 'lsst.obs.base.RawIngestTask'"):
            self.start(sqlite_repo, task="lsst.obs.base.RawIngestTask")


class OfTheStack:
    """As a class of the LSST stack for an instrument."""

    def register(self, registry: Any, update: bool = False) -> None:
        row = {"name": "LATISS", "class_name": "a.b", "visit_system": 2}
        limits = dict.fromkeys(("visit_max", "exposure_max", "detector_max"), 10)
        registry.syncDimensionData("instrument", row | limits, update=update)


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of what stands for the stack's class of LATISS."""
    name = f"{__name__}.{OfTheStack.__name__}"
    known = instruments.INSTRUMENTS["LATISS"] | {"class_name": name}
    monkeypatch.setitem(instruments.INSTRUMENTS, "LATISS", known)
    return name


def test_class_of_the_stack_finds_other_records(sqlite_repo: Path, ours: str) -> None:
    with pytest.raises(ConfigError, match=rf"differs from {ours} of the stack: .*--update"):
        prepared(sqlite_repo, "LATISS")
    prepared(sqlite_repo, "LATISS", update=True)
    (record,) = registered(sqlite_repo, "instrument", "LATISS")
    assert record.detector_max == 10


def test_class_of_the_stack_registers_its_instrument(tmp_path: Path, ours: str) -> None:
    done = prepared(tmp_path / "repo", "LATISS")
    assert done[1] == f"instrument LATISS, its detectors and filters (by {ours})"
