"""Tables of strangers."""

import gzip
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from llm_engineering.application.ports import FetchedDocument, Link
from llm_engineering.domain.errors import CollectionError, FetchError
from llm_engineering.infrastructure.shared.workers import Workers
from llm_engineering.infrastructure.sources.tabular import TableReader
from llm_engineering.infrastructure.sources.tabular import parquet as parquet_files
from tests.attacks.watching import measure_cost
from tests.fakes.fault_server import FaultServer, Reply

AUTHOR = "Ada Winter"
LIMIT = 2_000_000


async def read(url: str, **options: Any) -> list[FetchedDocument]:
    reader = TableReader(**{"max_download_bytes": LIMIT, **options})
    items = [item async for item in reader.read(Link(url, AUTHOR, category="article"), {})]
    return [item for item in items if isinstance(item, FetchedDocument)]


async def test_a_packed_bomb_is_counted_as_it_unpacks(server: FaultServer) -> None:
    body = gzip.compress(b"text\n" + b"a" * 200_000_000, 9)
    server.put("/t.csv", Reply(body, headers={"Content-Encoding": "gzip"}))
    server.put("/u.csv", Reply(gzip.compress(body), headers={"Content-Encoding": "gzip, gzip"}))
    for name in ("/t.csv", "/u.csv"):
        async with measure_cost() as cost:
            with pytest.raises(FetchError):
                await read(server.url(name))
        assert cost.peak_bytes < 3 * LIMIT
        assert cost.longest_stand < 0.05


async def test_a_table_may_not_send_its_reader_to_a_service_inside(server: FaultServer) -> None:
    async with FaultServer() as inside:
        inside.put("/t.csv", "text\nFor us alone\n")
        server.redirect("/t.csv", inside.url("/t.csv"))
        with pytest.raises(FetchError):
            await read(server.url("/t.csv"))
        assert inside.requests == []
        assert len(await read(server.url("/t.csv"), private_addresses="always")) == 1


async def test_the_credentials_of_a_table_stay_on_its_server(server: FaultServer) -> None:
    async with FaultServer() as elsewhere:
        elsewhere.put("/t.csv", "text\nOpen to all\n")
        server.redirect("/t.csv", elsewhere.url("/t.csv"))
        link = server.url("/t.csv").replace("://", "://ada:s3cret-pw@")
        assert len(await read(link, private_addresses="always")) == 1
        assert "authorization" in server.requests[0].headers
        assert "authorization" not in elsewhere.requests[0].headers


# --- packed and endless files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "head", "filling", "tail"),
    [
        ("t.csv.gz", b"text\n", b"a" * 1_000_000, b""),
        ("t.csv.gz", b'text\n"', b"a\n" * 100, b""),
        ("t.jsonl.gz", b'{"text": "', b"a" * 1_000_000, b""),
        ("t.json.gz", b'[{"text": "a"}, {"text": "', b"a" * 1_000_000, b'"}]'),
        ("t.json.gz", b"[", b"[" * 3_000, b""),
    ],
)
async def test_a_packed_file_is_never_held_whole(
    tmp_path: Path, name: str, head: bytes, filling: bytes, tail: bytes
) -> None:
    with gzip.open(tmp_path / name, "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(40):
            file.write(filling)
        file.write(tail)
    reader = TableReader(max_text_chars=100_000)
    async with measure_cost() as cost:
        with suppress(CollectionError):
            async for _ in reader.read(Link(str(tmp_path / name), AUTHOR, category="article"), {}):
                pass
    assert cost.peak_bytes < 15_000_000
    assert cost.longest_stand < 0.05


# --- S10: Parquet ------------------------------------------------------------------------------------------------------


def parquet(path: Path, columns: dict[str, Any], **how: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **how)
    assert path.stat().st_size < 20_000
    return path


def repeat(text: str, rows: int) -> Any:
    """A column that holds one text, once, for all of its rows."""
    return pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * rows, pyarrow.int32()), pyarrow.array([text])
    )


async def test_a_small_file_that_would_take_gigabytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(tmp_path / "t.parquet", {"text": repeat("a" * 3_000_000, 300)}, compression="zstd")
    trial = Workers(most=1, memory_bytes=500_000_000)
    monkeypatch.setattr(parquet_files, "_trial", lambda: trial)
    before = pyarrow.total_allocated_bytes()
    async with measure_cost() as cost:
        with pytest.raises(CollectionError):
            await read(str(path))
    assert pyarrow.total_allocated_bytes() - before < 1_000_000
    assert cost.peak_bytes < 1_000_000
    trial.close()


async def test_long_texts_are_read_in_smaller_batches(tmp_path: Path) -> None:
    rows = 300
    columns = {"text": repeat("a" * 900_000, rows), "id": list(range(rows))}
    path = parquet(tmp_path / "t.parquet", columns, compression="zstd")
    before = pyarrow.total_allocated_bytes()
    items = TableReader().read(Link(str(path), AUTHOR, category="article"), {})
    count = most = 0
    async for item in items:
        count += isinstance(item, FetchedDocument)
        most = max(most, pyarrow.total_allocated_bytes() - before)
    assert count == rows
    assert most < 150_000_000
