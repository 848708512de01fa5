"""The warehouse to JSON Lines files and back: for backups, for moving to another server, for other programs.

``users.jsonl``, ``documents.jsonl`` and ``dead_letters.jsonl`` hold one value a line, in id order; ``feedback.jsonl`` the
votes with their answers, oldest first; ``corrections.jsonl`` what was said of analyses; ``drafts.jsonl`` the drafts that people
edited. What can be derived (clean documents, embeddings, the index, analyses) is not exported: the pipelines make it again;
answers that nobody voted on and drafts that nobody edited are not either, for they expire. Numbers that
JSON does not know are written as Python does, ``NaN`` and ``Infinity``.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol, TypeVar

from pydantic import BaseModel, ValidationError, model_validator

from llm_engineering.application.failures import MAX_PAYLOAD_CHARS, group_batches
from llm_engineering.application.ports import (
    DeadLetterStore,
    DocumentStore,
    DraftStore,
    FeedbackStore,
    Progress,
    SilentProgress,
    UpsertCounts,
    UserStore,
)
from llm_engineering.domain.documents import DeadLetter, Model, RawDocument, User
from llm_engineering.domain.drafts import StoredDraft
from llm_engineering.domain.errors import (
    ConfigurationError,
    InvalidInputError,
    StoreError,
    StoreUnavailableError,
)
from llm_engineering.domain.hints import POE
from llm_engineering.domain.inference import Feedback, Interaction

USERS, DOCUMENTS, DEAD_LETTERS = "users.jsonl", "documents.jsonl", "dead_letters.jsonl"
FEEDBACK, DRAFTS, CORRECTIONS = "feedback.jsonl", "drafts.jsonl", "corrections.jsonl"
STAGE = "import"
"""Stage of the dead letters that an import writes; their source is ``FILE:LINE``."""
BATCH = 500
MAX_LINE_BYTES = 64_000_000
"""No document that a store can hold is longer; a file without line breaks must not fill the memory."""

Value = TypeVar("Value", bound=BaseModel)
Item = TypeVar("Item")


class Stores(Protocol):
    """The parts of a warehouse that are exported."""

    @property
    def users(self) -> UserStore: ...

    @property
    def documents(self) -> DocumentStore: ...

    @property
    def dead_letters(self) -> DeadLetterStore: ...

    @property
    def feedback(self) -> FeedbackStore: ...

    @property
    def drafts(self) -> DraftStore: ...


class Vote(Model):
    """A line of ``feedback.jsonl``."""

    interaction: Interaction
    feedback: Feedback

    @model_validator(mode="after")
    def _about_one_answer(self) -> "Vote":
        if self.interaction.trace_id != self.feedback.trace_id:
            raise ValueError("the vote and the answer have different trace ids")
        return self


@dataclass(frozen=True, slots=True)
class ExportReport:
    """How many values were written, by file name."""

    written: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did. ``rejected`` lines are kept as dead letters."""

    users: int = 0
    documents: UpsertCounts = field(default_factory=UpsertCounts)
    dead_letters: int = 0
    rejected: int = 0
    votes: int = 0
    drafts: int = 0
    corrections: int = 0


def export_warehouse(stores: Stores, folder: Path, progress: Progress | None = None) -> ExportReport:
    """Write the files, streaming. All of them are put in place at the end, so that a reader never sees half an export.

    Raises:
        StoreError: a file cannot be written (a full disk, no permission); what was there before is untouched.
        StoreUnavailableError: the warehouse does not answer.
    """
    progress = progress or SilentProgress()
    totals = {
        DOCUMENTS: sum(stores.documents.count_documents().values()),
        DEAD_LETTERS: stores.dead_letters.count(),
    }
    streams: dict[str, Iterable[BaseModel]] = {
        USERS: stores.users.all(),
        DOCUMENTS: stores.documents.stream(),
        DEAD_LETTERS: stores.dead_letters.stream(),
        FEEDBACK: (Vote(interaction=given, feedback=said) for given, said in stores.feedback.read_votes()),
        DRAFTS: stores.drafts.read_edited(),
        CORRECTIONS: stores.feedback.read_corrections(),
    }
    written: dict[str, int] = {}
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            finished: list[tuple[Path, Path]] = []
            for name, values in streams.items():
                temporary = folder / f".{name}.new"
                stack.callback(temporary.unlink, missing_ok=True)
                written[name] = _write(temporary, values, name, totals.get(name), progress)
                finished.append((temporary, folder / name))
            for temporary, target in finished:
                temporary.replace(target)
        except OSError as error:
            raise StoreError(
                f"The export cannot be written to {folder}: {error.strerror or error}. Make room or choose another "
                "folder, and run again; an earlier export in it is untouched."
            ) from error
    return ExportReport(written)


def import_warehouse(stores: Stores, folder: Path, progress: Progress | None = None) -> ImportReport:
    """Read the files of an export that are there. Running it twice, or again after an interruption, changes nothing more.

    A line that cannot be used becomes a dead letter with its number and reason, and the rest goes in; a later import in
    which the line is good resolves it. Without ``users.jsonl``, the documents' authors become the users.

    Raises:
        InvalidInputError: the folder holds none of the files.
        StoreUnavailableError: the warehouse does not answer.
    """
    progress = progress or SilentProgress()
    files = (USERS, DOCUMENTS, DEAD_LETTERS, FEEDBACK, DRAFTS, CORRECTIONS)
    present = [name for name in files if (folder / name).is_file()]
    if not present:
        raise InvalidInputError(
            f"There is nothing to import in {folder}: expected {', '.join(files[:-1])} or {files[-1]}, as "
            f"{POE} export-data-warehouse-to-json writes them."
        )
    importer = _Importer(stores, progress)
    users, documents, letters = 0, UpsertCounts(), 0
    if USERS in present:
        users = sum(map(importer.save_users, importer.read(folder / USERS, User)))
    for batch in importer.read(folder / DOCUMENTS, RawDocument) if DOCUMENTS in present else ():
        if USERS not in present:
            users += importer.save_users(
                [(source, User(full_name=document.author)) for source, document in batch if document.author]
            )
        documents += importer.save_documents(batch)
    voted = importer.read(folder / FEEDBACK, Vote) if FEEDBACK in present else ()
    votes = sum(map(importer.save_votes, voted))
    edited = importer.read(folder / DRAFTS, StoredDraft) if DRAFTS in present else ()
    drafts = sum(map(importer.save_drafts, edited))
    said = importer.read(folder / CORRECTIONS, Feedback) if CORRECTIONS in present else ()
    corrections = sum(map(importer.save_corrections, said))
    importer.resolve_mended()
    # Last: among them may be letters about lines of other imports, which are as they were.
    for letter_batch in importer.read(folder / DEAD_LETTERS, DeadLetter) if DEAD_LETTERS in present else ():
        stores.dead_letters.put([letter for _, letter in letter_batch])
        letters += len(letter_batch)
    return ImportReport(users, documents, letters, importer.rejected, votes, drafts, corrections)


class _Importer:
    """Carries what lasts over the batches of one import."""

    def __init__(self, stores: Stores, progress: Progress) -> None:
        self._stores = stores
        self._progress = progress
        self._known_users = {user.id for user in stores.users.all()}
        self._failed_before = {letter.source for letter in stores.dead_letters.stream(STAGE)}
        self._mended: list[str] = []
        self.rejected = 0

    def read(self, path: Path, kind: type[Value]) -> Iterator[list[tuple[str, Value]]]:
        """Yield batches of (``FILE:LINE``, value); lines that are not one are rejected on the way."""
        with path.open("rb") as file:
            for lines in group_batches(_lines(file), BATCH):
                values: list[tuple[str, Value]] = []
                letters: list[DeadLetter] = []
                for number, line in lines:
                    source = f"{path.as_posix()}:{number}"
                    value = _parse(line, kind)
                    if isinstance(value, str):
                        letters.append(_letter(source, value, line))
                    else:
                        values.append((source, value))
                self._reject(letters)
                yield values
                self._mended += [source for source, _ in values if source in self._failed_before]
                self._progress.advance(path.name, len(lines))

    def save_users(self, batch: Sequence[tuple[str, User]]) -> int:
        """Create those that are missing; how many there were in the batch."""
        names = {user.id: user.full_name for _, user in reversed(batch)}
        for identifier in names.keys() - self._known_users:
            self._stores.users.get_or_create(names[identifier])
        created = len(names.keys() - self._known_users)
        self._known_users |= names.keys()
        return created

    def save_documents(self, batch: Sequence[tuple[str, RawDocument]]) -> UpsertCounts:
        """Upsert a batch; documents that the store refuses are rejected one by one."""
        return sum(self._saved(batch, self._stores.documents.upsert), UpsertCounts())

    def save_votes(self, batch: Sequence[tuple[str, Vote]]) -> int:
        """Write a batch of votes; how many there were. What the store refuses is rejected one by one."""

        def restore(votes: Sequence[Vote]) -> int:
            self._stores.feedback.restore([(vote.interaction, vote.feedback) for vote in votes])
            return len(votes)

        return sum(self._saved(batch, restore))

    def save_corrections(self, batch: Sequence[tuple[str, Feedback]]) -> int:
        """Write a batch of what was said of analyses; how many there were. What the store refuses is rejected one by one."""

        def restore(said: Sequence[Feedback]) -> int:
            for one in said:
                self._stores.feedback.vote(one)
            return len(said)

        return sum(self._saved(batch, restore))

    def save_drafts(self, batch: Sequence[tuple[str, StoredDraft]]) -> int:
        """Write a batch of edited drafts; how many there were. What the store refuses is rejected one by one."""

        def restore(drafts: Sequence[StoredDraft]) -> int:
            self._stores.drafts.restore(drafts)
            return len(drafts)

        return sum(self._saved(batch, restore))

    def _saved(
        self, batch: Sequence[tuple[str, Value]], save: Callable[[Sequence[Value]], Item]
    ) -> list[Item]:
        """What ``save`` returned for the whole batch, or for each of it where the store refuses some."""
        try:
            return [save([value for _, value in batch])]
        except StoreUnavailableError:
            raise
        except StoreError:
            saved, letters = [], []
            for source, value in batch:
                try:
                    saved.append(save([value]))
                except StoreUnavailableError:
                    raise
                except StoreError as error:
                    letters.append(_letter(source, str(error), _shown(value)))
            self._reject(letters)
            return saved

    def resolve_mended(self) -> None:
        """Forget the letters of lines that failed in an earlier import and are good now."""
        self._stores.dead_letters.resolve(STAGE, self._mended)

    def _reject(self, letters: Sequence[DeadLetter]) -> None:
        self.rejected += len(letters)
        self._failed_before -= {letter.source for letter in letters}
        self._stores.dead_letters.put(letters)


def _write(path: Path, values: Iterable[BaseModel], name: str, total: int | None, progress: Progress) -> int:
    count = 0
    with path.open("wb") as file:
        for batch in group_batches(values, BATCH):
            lines = (json.dumps(value.model_dump(mode="json"), ensure_ascii=False) for value in batch)
            file.write("".join(f"{line}\n" for line in lines).encode())
            count += len(batch)
            progress.advance(name, len(batch), total=total)
        file.flush()
        os.fsync(file.fileno())
    return count


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """(number, line) of lines that are not blank. One that is too long is cut after MAX_LINE_BYTES, which marks it."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES)
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if line.strip():
            yield number, line


def _parse(line: bytes, kind: type[Value]) -> Value | str:
    """The value of a line, or the reason why there is none."""
    if len(line) > MAX_LINE_BYTES:
        return f"the line is longer than {MAX_LINE_BYTES:,} bytes"
    try:
        content = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return f"not UTF-8: {error.reason} at byte {error.start}"
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of thousands of digits
        return f"not JSON: {error}"
    if not isinstance(content, dict):
        return f"expected a JSON object, got {type(content).__name__}"
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems)
    except ConfigurationError as error:  # an unknown category
        return str(error)


def _shown(value: BaseModel) -> bytes:
    shown = value.link if isinstance(value, RawDocument) else repr(value)
    return shown.encode("utf-8", "replace")


def _letter(source: str, reason: str, line: bytes) -> DeadLetter:
    payload = line[: 4 * MAX_PAYLOAD_CHARS].decode("utf-8", "replace").rstrip("\n")[:MAX_PAYLOAD_CHARS]
    return DeadLetter(
        stage=STAGE, source=source, reason=reason[:1_000], payload=payload, failed_at=datetime.now(UTC)
    )
