"""Data sets in BEIR's format (Thakur et al., NeurIPS Datasets 2021): a corpus, queries and relevance judgements.

::

    corpus.jsonl      {"_id": "d1", "title": "…", "text": "…"}
    queries.jsonl     {"_id": "q1", "text": "…"}
    qrels/test.tsv    query-id <tab> corpus-id <tab> score, with a line of headings
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from llm_engineering.application.evaluation.rag.questions import (
    Labelled,
    Question,
    Relevant,
    Resolved,
    Target,
)
from llm_engineering.application.failures import group_batches
from llm_engineering.application.features.chunk import ChunkingConfig, chunk_document
from llm_engineering.application.features.clean import clean
from llm_engineering.application.ports import Embedder, Progress, SilentProgress, VectorIndex
from llm_engineering.application.text.tokens import TokenCounts
from llm_engineering.domain.documents import CleanDocument, EmbeddedChunk, RawDocument
from llm_engineering.domain.errors import InvalidInputError

BATCH = 256
SHOWN = 20
_SILENT = SilentProgress()


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that was left out."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Indexed:
    """What went into the throwaway index."""

    documents: int
    chunks: int
    bad: tuple[BadLine, ...]


def read_documents(folder: Path, bad: list[BadLine]) -> Iterator[CleanDocument]:
    """Yield the corpus, cleaned as any other text, as it is read; what cannot be used goes to ``bad``.

    Raises:
        InvalidInputError: the file cannot be read.
    """
    for number, item in _objects(folder / "corpus.jsonl", bad):
        identifier, text = item.get("_id"), item.get("text")
        title = item.get("title") or ""
        if not isinstance(identifier, str) or not identifier or not isinstance(title, str):
            bad.append(BadLine("corpus.jsonl", number, 'expected "_id" and "title" as strings'))
            continue
        if not isinstance(text, str) or not text.strip():
            bad.append(BadLine("corpus.jsonl", number, f"document '{identifier}' has no text"))
            continue
        raw = RawDocument(
            category="article",
            title=title,
            text=text,
            link=link_of(identifier),
            origin="beir",
            platform="beir",
            author="beir",
        )
        yield clean(raw)


def link_of(identifier: str) -> str:
    """Return the link that a document of the data set gets; its id derives from it."""
    return f"beir:{identifier}"


def build_index(
    folder: Path,
    index: VectorIndex,
    embedder: Embedder,
    chunking: ChunkingConfig,
    *,
    progress: Progress = _SILENT,
) -> Indexed:
    """Chunk, embed and write the corpus, a batch of documents in memory at a time.

    Raises:
        InvalidInputError: the corpus cannot be read, or no line of it is a document.
        ModelError: the embedder failed.
        StoreError: the index cannot be written.
    """
    bad: list[BadLine] = []
    counts = TokenCounts(embedder.tokenizer)
    fingerprint = embedder.fingerprint
    total = chunks = 0
    with index.writer(fingerprint) as writer:
        for batch in group_batches(read_documents(folder, bad), BATCH):
            found = [
                chunk
                for document in batch
                for chunk in chunk_document(document, counts, chunking, fingerprint.max_tokens, "beir")
            ]
            vectors = embedder.embed_documents([chunk.embedding_text for chunk in found])
            writer.upsert(
                [
                    EmbeddedChunk.model_construct(chunk=chunk, vector=tuple(row.tolist()))
                    for chunk, row in zip(found, vectors, strict=True)
                ]
            )
            total += len(batch)
            chunks += len(found)
            progress.advance("Index the data set", len(batch))
        if not total:
            raise InvalidInputError(f"{folder / 'corpus.jsonl'} holds no document.{_listing(bad)}")
    return Indexed(total, chunks, tuple(bad))


def read_questions(folder: Path, split: str, most: int, seed: int) -> tuple[Resolved, list[BadLine]]:
    """Return queries that have relevant documents, at most so many, drawn by seed.

    A document that is judged relevant but not in the corpus still counts as relevant, as in the data set's own measures.

    Raises:
        InvalidInputError: a file cannot be read, or no query has a relevant document.
    """
    bad: list[BadLine] = []
    judged = _judgements(folder / "qrels" / f"{split}.tsv", bad)
    drawn = sorted(judged, key=lambda key: blake2b(f"{seed}/{key}".encode(), digest_size=8).digest())[:most]
    wanted = set(drawn)
    found: list[Labelled] = []
    for number, item in _objects(folder / "queries.jsonl", bad):
        identifier, text = item.get("_id"), item.get("text")
        if not isinstance(identifier, str) or not isinstance(text, str) or not text.strip():
            bad.append(BadLine("queries.jsonl", number, 'expected "_id" and "text" as strings'))
        elif identifier in wanted:
            found.append(_labelled(identifier, text, judged[identifier]))
    if not found:
        raise InvalidInputError(
            f"{folder}: no query has a relevant document in qrels/{split}.tsv.{_listing(bad)}"
        )
    missing = dict.fromkeys(wanted - {q.question.id for q in found}, "judged, but not among the queries")
    return Resolved(tuple(sorted(found, key=lambda q: q.question.id)), missing), bad


def _labelled(identifier: str, text: str, grades: dict[str, int]) -> Labelled:
    ids = {document: _document_id(document) for document in sorted(grades)}
    places = tuple(Relevant(document_id=ids[document], grade=grades[document]) for document in ids)
    question = Question(id=identifier, question=text, relevant=places, kind="beir", language="und")
    return Labelled(question, tuple(Target(ids[key], None, grades[key]) for key in ids))


def _document_id(identifier: str) -> str:
    link = link_of(identifier)
    return RawDocument(
        category="article", text="-", link=link, origin="beir", platform="beir", author="beir"
    ).id


def _judgements(path: Path, bad: list[BadLine]) -> dict[str, dict[str, int]]:
    judged: dict[str, dict[str, int]] = {}
    for number, line in _lines(path):
        cells = line.rstrip("\r\n").split("\t")
        if number == 1 and cells[-1].strip().casefold() == "score":
            continue
        try:
            query, document, score = cells
            grade = int(score)
        except ValueError:
            reason = (
                f"expected query, document and a whole number, divided by tabs; got {line.strip()[:80]!r}"
            )
            bad.append(BadLine(path.name, number, reason))
            continue
        if grade > 0:
            judged.setdefault(query, {})[document] = grade
    return judged


def _objects(path: Path, bad: list[BadLine]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            bad.append(BadLine(path.name, number, f"not JSON: {error.msg}"))
            continue
        if isinstance(item, dict):
            yield number, item
        else:
            bad.append(BadLine(path.name, number, f"expected an object, got {type(item).__name__}"))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from enumerate(file, start=1)
    except OSError as error:
        raise InvalidInputError(
            f"{path} cannot be read ({error.strerror}). A BEIR folder holds corpus.jsonl, queries.jsonl and qrels/*.tsv."
        ) from None


def _listing(bad: Sequence[BadLine]) -> str:
    if not bad:
        return ""
    return " Lines that were left out: " + "; ".join(str(line) for line in bad[:SHOWN])
