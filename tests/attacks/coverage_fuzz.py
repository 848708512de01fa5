"""Look for inputs that break a reader, led by what of the code each input reaches.

``python -m tests.attacks.coverage_fuzz chunker 300`` looks for so many seconds; an input that breaks it is written to the
current folder. It needs ``atheris`` (Linux); ``test_fuzzed_input.py`` does without, and with its own sense of what is likely.
"""

import asyncio
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["llm_engineering", "csv", "json"]):
    from llm_engineering.application.features.chunk import ChunkingConfig, chunk_document
    from llm_engineering.application.ports import Link
    from llm_engineering.domain.documents import CleanDocument
    from llm_engineering.domain.errors import CollectionError, ExtractionError, ModelServiceError
    from llm_engineering.infrastructure.shared.openai_stream import Lines, ReplyReader, event_data
    from llm_engineering.infrastructure.sources.git.globs import matches
    from llm_engineering.infrastructure.sources.tabular import TableReader
from tests.fakes.embedder import WordTokenizer

FIELDS = "id category title link platform author author_id language source_hash".split()
SEEDS = {
    "chunker": [
        b"\x10# One\n\nWords of it. More words!\n\n```py\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- a\n  - b\n1. c\n> q",
        b"\x04Title\n=====\n\n~~~\n$$x$$\n~~~\n<b>a</b>\n\n***\n\n![i](u) [l](u)\t\xe2\x80\xa8 x",
    ],
    "stream": [
        b'\x05data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}\n\ndata: [DONE]\n',
        b'\x01: ping\r\ndata: {"choices":[{"delta":{"content":"\\ud83d"}}]}\r\ndata: {"error":{"message":"x"}}\n',
    ],
    "globs": [b"src/**/*.py\nsrc/a/b.py", b"[!a-c]?[^]]*/\nb/c", b"**/a**b/[]-z]\nx/a/b"],
    "table": [
        b'\x00text,id\n"a ""b""",1\nc,2\n',
        b'\x01[{"text": "a", "id": 1}, {"text": "b"}]',
        b'\x02{"text": "a"}\n\n{"text": "b", "id": [1]}\n',
    ],
}
ENDINGS = ("csv", "json", "jsonl", "tsv")


def chunker(data: bytes) -> None:
    """Every character of a text stands in some chunk, and none is longer than the model reads."""
    budget = 8 + (data[0] if data else 0)
    text = data[1:].decode("utf-8", "replace")
    document = CleanDocument.model_validate(
        {**dict.fromkeys(FIELDS, "x"), "category": "article", "text": text}
    )
    tokenizer = WordTokenizer()
    config = ChunkingConfig(overlap_tokens=0, min_tokens=0, parent_tokens=max(64, 4 * budget))
    chunks = chunk_document(document, tokenizer, config, budget, "v")
    missing = set("".join(text.split())) - set("".join(chunk.text for chunk in chunks))
    assert not missing, missing


def stream(data: bytes) -> None:
    """However the bytes are cut, the lines are the same, and a reply comes of them or the service's failure."""
    step, rest = (data[0] % 16 + 1 if data else 1), data[1:]
    whole, cut = Lines(), Lines()
    lines = [*whole.feed(rest), *whole.end()]
    pieces = [line for at in range(0, len(rest), step) for line in cut.feed(rest[at : at + step])] + cut.end()
    assert lines == pieces
    reader = ReplyReader("The service")
    with suppress(ModelServiceError):
        for line in lines:
            event = event_data(line)
            if event is not None and event != "[DONE]":
                reader.read(event).encode("utf-8")
        reader.make_closing_delta()


def globs(data: bytes) -> None:
    """A pattern is matched or refused, soon; what stands for nothing else matches itself."""
    pattern, _, path = data.decode("utf-8", "replace").partition("\n")
    with suppress(ValueError):
        matches(path, [pattern])
    plain = "".join(character for character in path if character.isalnum() or character == "/").strip("/")
    if plain and len(plain) < 200:
        name = "/".join(filter(None, plain.split("/")))
        assert matches(name, ["/" + name])


def table(data: bytes) -> None:
    """A table is read, or refused as a source that cannot be."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder) / f"t.{ENDINGS[(data[0] if data else 0) % len(ENDINGS)]}"
        path.write_bytes(data[1:])

        async def read() -> None:
            async for _ in TableReader().read(Link(str(path), "Ada", category="article"), {}):
                pass

        with suppress(CollectionError, ExtractionError):
            asyncio.run(read())


TARGETS = {"chunker": chunker, "stream": stream, "globs": globs, "table": table}


def main() -> None:
    name, seconds = sys.argv[1], sys.argv[2]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS[name]):
            (Path(corpus) / str(number)).write_bytes(seed)
        options = [f"-max_total_time={seconds}", "-max_len=2000", "-timeout=10", "-rss_limit_mb=2000"]
        atheris.Setup([sys.argv[0], *options, corpus], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
