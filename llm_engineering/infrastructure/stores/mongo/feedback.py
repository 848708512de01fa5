"""Answers that were given, and the votes on them."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from llm_engineering.domain.documents import derive_id
from llm_engineering.domain.errors import ForeignVoteError, InvalidInputError
from llm_engineering.domain.inference import Feedback, Interaction
from llm_engineering.infrastructure.stores.mongo.collections import WRITE_BATCH, MongoCollection
from llm_engineering.infrastructure.stores.mongo.connection import MongoConnection, Record
from llm_engineering.infrastructure.stores.mongo.records import encode_records, from_record, refuse, to_record

if TYPE_CHECKING:
    from pymongo import IndexModel

KEPT = timedelta(days=30)
"""How long an answer that nobody voted on is kept."""
_BY_VOTE = "votes_by_time"


class _SubjectVotes(MongoCollection):
    """What was said of analyses and summaries: a record for each voter and version."""

    name = "subject_votes"
    what = "votes"

    def list_indexes(self) -> "list[IndexModel]":
        from pymongo import IndexModel

        return [IndexModel([("task", 1), ("_id", 1)])]

    def put(self, feedback: Feedback) -> None:
        identifier = derive_id("vote", feedback.subject.kind, feedback.subject.id, feedback.voter)
        self._replace([(identifier, to_record(feedback, identifier))])

    def count(self, task: str) -> dict[str, tuple[int, int]]:
        group = {"_id": {"subject": "$subject.id", "rating": "$rating"}, "votes": {"$sum": 1}}
        with self._connection.translate_errors("counting votes"):
            rows = list(self._collection().aggregate([{"$match": {"task": task}}, {"$group": group}]))
        found: dict[str, tuple[int, int]] = {}
        for row in rows:
            up, down = found.get(row["_id"]["subject"], (0, 0))
            rating, votes = row["_id"]["rating"], row["votes"]
            found[row["_id"]["subject"]] = (up + votes * (rating == "up"), down + votes * (rating == "down"))
        return dict(sorted(found.items()))

    def read(self, task: str | None) -> Iterator[Feedback]:
        records = self._stream({} if task is None else {"task": task}, None, WRITE_BATCH)
        # Few enough for memory: each was given by a person.
        yield from sorted(
            (from_record(Feedback, record) for record in records), key=lambda vote: vote.created_at
        )


class MongoFeedbackStore(MongoCollection):
    """One record an answer, its vote inside: a vote is then one atomic write, and no vote is ever without its answer.

    ``expires_at`` stands only on answers without a vote; the server itself deletes by it (a TTL index, checked about once
    a minute). An answer that is due but still there counts as gone.
    """

    name = "answers"
    what = "answers"

    def __init__(self, connection: MongoConnection) -> None:
        super().__init__(connection)
        self._subjects = _SubjectVotes(connection)

    def list_indexes(self) -> "list[IndexModel]":
        from pymongo import IndexModel

        return [
            IndexModel("expires_at", expireAfterSeconds=0),
            IndexModel(
                [("vote.created_at", 1), ("_id", 1)],
                name=_BY_VOTE,
                partialFilterExpression={"vote": {"$exists": True}},
            ),
        ]

    def remember(self, interaction: Interaction) -> None:
        """Keep an answer for 30 days. One that was voted on under the same trace id stays as it is.

        Raises:
            StoreError: it cannot be stored (too large, or text that is not valid Unicode).
            StoreUnavailableError: no server answers, or none did in the last ten seconds.
        """
        with self._ask_sparingly():
            self._remember(interaction)

    def _remember(self, interaction: Interaction) -> None:
        from pymongo.errors import DuplicateKeyError

        record = to_record(interaction, interaction.trace_id, expires_at=interaction.created_at + KEPT)
        storable, refused = encode_records([(interaction.trace_id, record)])
        refuse(self.what, refused)
        with self._connection.translate_errors("keeping an answer"):
            try:
                self._collection().replace_one(
                    {"_id": interaction.trace_id, "vote": {"$exists": False}}, storable[0][1], upsert=True
                )
            except DuplicateKeyError:
                return  # the one stored has a vote, which is about that text and no other

    def find_interaction(self, trace_id: str) -> Interaction | None:
        with self._connection.translate_errors("reading an answer"):
            record = self._collection().find_one(_alive(trace_id))
        return None if record is None else from_record(Interaction, record)

    def vote(self, feedback: Feedback) -> None:
        """Keep a vote, and its answer for good, in one write.

        Raises:
            InvalidInputError: no answer with that trace id is remembered.
            ForeignVoteError: another voter has voted on it.
        """
        if feedback.subject.kind != "answer":
            self._subjects.put(feedback)
            return
        # Votes of before there were voters have none, as those of services without keys.
        voters = [feedback.voter, *([None] if not feedback.voter else [])]
        free = {"$or": [{"vote": {"$exists": False}}, {"vote.voter": {"$in": voters}}]}
        with self._connection.translate_errors("keeping a vote"):
            result = self._collection().update_one(
                {"$and": [_alive(feedback.trace_id), free]},
                {"$set": {"vote": _vote(feedback)}, "$unset": {"expires_at": ""}},
            )
            if not result.matched_count and self._collection().find_one(
                _alive(feedback.trace_id), {"_id": 1}
            ):
                raise ForeignVoteError(
                    f"Somebody else has voted on the answer with the trace id {feedback.trace_id!r}; only they may "
                    "change that vote."
                )
        if not result.matched_count:
            raise InvalidInputError(
                f"No answer with the trace id {feedback.trace_id!r} is kept. Expected the trace_id of an answer of the "
                f"last {KEPT.days} days; answers are kept a moment after they were given, so try again once."
            )

    def read_votes(self, *, batch_size: int = 256) -> Iterator[tuple[Interaction, Feedback]]:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        return map(_pair, self._voted(batch_size))

    def read_corrections(self, task: str | None = None) -> Iterator[Feedback]:
        return self._subjects.read(task)

    def count_votes(self, task: str) -> dict[str, tuple[int, int]]:
        return self._subjects.count(task)

    def restore(self, voted: Sequence[tuple[Interaction, Feedback]]) -> None:
        self._replace(
            [
                (answer.trace_id, to_record(answer, answer.trace_id, vote=_vote(feedback)))
                for answer, feedback in voted
            ]
        )

    def _voted(self, batch_size: int) -> Iterator[Record]:
        """By time of the vote; a round trip a batch. Each batch is a query of its own, so that no cursor must stay open
        while its reader works, and a restarted server interrupts nothing."""
        behind: dict[str, Any] = {}
        while True:
            with self._connection.translate_errors("reading votes"):
                cursor = self._collection().find({"vote": {"$exists": True}, **behind}).hint(_BY_VOTE)
                cursor = cursor.sort([("vote.created_at", 1), ("_id", 1)])
                records = list(cursor.limit(batch_size).batch_size(batch_size))
            yield from records
            if len(records) < batch_size:
                return
            at, identifier = records[-1]["vote"]["created_at"], records[-1]["_id"]
            behind = {
                "vote.created_at": {"$gte": at},
                "$or": [{"vote.created_at": {"$gt": at}}, {"_id": {"$gt": identifier}}],
            }


def _alive(trace_id: str) -> dict[str, Any]:
    # None also matches where the field is missing: an answer with a vote.
    return {"_id": trace_id, "$or": [{"expires_at": None}, {"expires_at": {"$gt": datetime.now(UTC)}}]}


def _vote(feedback: Feedback) -> Record:
    return feedback.model_dump(include={"rating", "comment", "voter", "created_at"})


def _pair(record: Record) -> tuple[Interaction, Feedback]:
    vote = {**record["vote"], "_id": record["_id"], "subject": {"kind": "answer", "id": record["_id"]}}
    return from_record(Interaction, record), from_record(Feedback, vote)
