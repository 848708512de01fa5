"""The warehouse contract, on the fake and on MongoDB's wire protocol; and what only the real one can show."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta

import numpy as np
import pymongo.monitoring
import pytest

from llm_engineering.domain.errors import ConfigurationError, StoreError, StoreUnavailableError
from llm_engineering.infrastructure.stores.mongo import MongoWarehouse
from llm_engineering.infrastructure.stores.mongo.connection import without_credentials
from llm_engineering.infrastructure.stores.mongo.records import original_key, safe_key
from tests.conformance.warehouse_contract import (
    AnalysisContract,
    CleanContract,
    DeadLetterContract,
    DocumentContract,
    DraftContract,
    EmbeddingContract,
    FeedbackContract,
    GenerationContract,
    NoticeContract,
    SummaryContract,
    UserContract,
    VoiceContract,
    Warehouse,
    answered,
    at_once,
    clean,
    letter,
    raw,
    said,
)
from tests.durations import allow
from tests.fakes.warehouse import FakeWarehouse
from tests.services import free_port
from tools.services import LocalMongo

MEGABYTE = 1_000_000


Connect = Callable[..., MongoWarehouse]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes warehouses that are closed when the test ends."""
    with ExitStack() as stack:

        def make(uri: str, database: str = "twin", timeout_seconds: float = 3.0) -> MongoWarehouse:
            return stack.enter_context(closing(MongoWarehouse(uri, database, timeout_seconds)))

        yield make


@pytest.fixture
def mongo(mongo_server: LocalMongo, mongo_database: str, connect: Connect) -> MongoWarehouse:
    return connect(mongo_server.uri, mongo_database)


@pytest.fixture(params=["fake", "mongo"])
def warehouse(request: pytest.FixtureRequest) -> Warehouse:
    if request.param == "fake":
        return FakeWarehouse()
    found: MongoWarehouse = request.getfixturevalue("mongo")
    return found


class TestUsers(UserContract): ...


class TestDocuments(DocumentContract): ...


class TestClean(CleanContract): ...


class TestDeadLetters(DeadLetterContract): ...


class TestEmbeddings(EmbeddingContract): ...


class TestFeedback(FeedbackContract): ...


class TestDrafts(DraftContract): ...


class TestGenerations(GenerationContract): ...


class TestVoices(VoiceContract): ...


class TestAnalyses(AnalysisContract): ...


class TestNotices(NoticeContract): ...


class TestSummaries(SummaryContract): ...


class _Commands(pymongo.monitoring.CommandListener):
    """Commands that reached the server, by name."""

    seen: list[str]

    def __init__(self) -> None:
        self.seen = []

    def started(self, event: pymongo.monitoring.CommandStartedEvent) -> None:
        if event.command_name not in {"createIndexes", "hello", "ping", "endSessions", "killCursors"}:
            self.seen.append(event.command_name)

    def succeeded(self, event: pymongo.monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: pymongo.monitoring.CommandFailedEvent) -> None: ...


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> _Commands:
    """Listens to the clients that are opened from here on."""
    listener = _Commands()
    opened = pymongo.MongoClient

    def listening(*arguments: object, **options: object) -> object:
        return opened(*arguments, event_listeners=[listener], **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pymongo, "MongoClient", listening)
    return listener


class TestRoundTrips:
    """ceil(n / batch) requests, whatever n is."""

    def test_bulk_writes_and_lookups(self, commands: _Commands, mongo: MongoWarehouse) -> None:
        documents = [raw(number) for number in range(1_100)]
        mongo.documents.upsert(documents)
        expected = ["find"] * 4 + ["insert"] + ["find"] + ["insert"]
        assert commands.seen == expected, "1,024 looked up in 4 × 256 and written in one, then the rest"
        commands.seen.clear()
        mongo.documents.upsert([raw(number, text="Changed.") for number in range(200, 400)])
        assert commands.seen == ["find", "update"]
        commands.seen.clear()
        mongo.documents.upsert(documents[:200])
        assert commands.seen == ["find"], "nothing changed, so nothing is written"
        commands.seen.clear()
        mongo.documents.get([d.id for d in documents[:600]])
        assert commands.seen == ["find"] * 3
        commands.seen.clear()
        mongo.documents.delete([d.id for d in documents])
        assert commands.seen == ["delete"] * 2

    def test_a_stream_asks_once_per_batch(self, commands: _Commands, mongo: MongoWarehouse) -> None:
        mongo.documents.upsert([raw(number) for number in range(25)])
        for options, expected in (({}, 3), ({"author": "Ann Lee"}, 3)):
            commands.seen.clear()
            assert len(list(mongo.documents.stream(batch_size=10, **options))) == 25
            assert commands.seen == ["find"] + ["getMore"] * (expected - 1)
        commands.seen.clear()
        list(mongo.documents.list_hashes())
        assert commands.seen == ["find"]

    def test_the_other_stores(self, commands: _Commands, mongo: MongoWarehouse) -> None:
        mongo.clean.upsert([clean(number) for number in range(300)])
        assert commands.seen == ["update"]
        commands.seen.clear()
        mongo.clean.set_groups({clean(number).id: "group" for number in range(300)})
        assert commands.seen == ["find"] * 2 + ["update"]
        commands.seen.clear()
        mongo.dead_letters.put([letter(number) for number in range(300)])
        mongo.dead_letters.resolve("collect", [f"s{number}" for number in range(300)])
        assert commands.seen == ["update", "delete"]
        commands.seen.clear()
        mongo.embeddings.put_many("f", {str(number): np.ones(3, np.float32) for number in range(200)})
        mongo.embeddings.get_many("f", [str(number) for number in range(200)])
        mongo.embeddings.put_many("f", {"0": np.zeros(3, np.float32)})
        assert commands.seen == ["insert", "find", "insert", "update"], "one that was there is replaced"
        assert not mongo.embeddings.get_many("f", ["0"])["0"].any()
        commands.seen.clear()
        mongo.feedback.remember(answered())
        mongo.feedback.vote(said())
        mongo.feedback.find_interaction("t0")
        mongo.feedback.restore([(answered(str(number)), said(str(number))) for number in range(19)])
        list(mongo.feedback.read_votes(batch_size=10))
        assert commands.seen == ["update", "update", "find", "update"] + ["find"] * 3
        commands.seen.clear()
        mongo.users.get_or_create("Ann")
        mongo.users.get_or_create("Ann")
        mongo.documents.count_documents()
        assert commands.seen == ["find", "insert", "find", "aggregate"]

    def test_nothing_is_opened_before_the_first_use(self, commands: _Commands, mongo: MongoWarehouse) -> None:
        assert mongo._connection._client is None
        mongo.close()
        mongo.close()
        mongo.ping()
        assert mongo._connection._client is not None


class TestWhatCannotBeStored:
    def test_a_document_beyond_16_mb_is_named_and_the_others_are_written(self, mongo: MongoWarehouse) -> None:
        huge = raw(1, text="x" * 17 * MEGABYTE)
        with pytest.raises(StoreError, match=r"all others were(?s:.*)example\.org/1: 17,0.*at most 16,777"):
            mongo.documents.upsert([raw(0), huge, raw(2)])
        assert {d.id for d in mongo.documents.stream()} == {raw(0).id, raw(2).id}

    def test_a_document_just_below_the_limit_goes_in_and_out(self, mongo: MongoWarehouse) -> None:
        large = raw(0, text="x" * (16 * MEGABYTE))
        mongo.documents.upsert([large, raw(1)])
        assert mongo.documents.get([large.id]) == [large]

    def test_a_number_beyond_64_bits_is_named(self, mongo: MongoWarehouse) -> None:
        with pytest.raises(StoreError, match=r"example\.org/1.*8-byte"):
            mongo.documents.upsert([raw(0), raw(1, metadata={"n": 2**70})])
        assert [d.id for d in mongo.documents.stream()] == [raw(0).id]

    def test_a_record_that_another_program_wrote_is_named(self, mongo: MongoWarehouse) -> None:
        mongo.documents.upsert([raw(0)])
        mongo.documents._collection().update_one({"_id": raw(0).id}, {"$unset": {"text": 1}})
        with pytest.raises(StoreError, match=f"RawDocument {raw(0).id} cannot be read: text: Field required"):
            list(mongo.documents.stream())

    def test_a_record_of_an_unknown_category_is_named(self, mongo: MongoWarehouse) -> None:
        mongo.documents.upsert([raw(0)])
        mongo.documents._collection().update_one({"_id": raw(0).id}, {"$set": {"category": "poem"}})
        with pytest.raises(
            StoreError, match=f"RawDocument {raw(0).id} cannot be read: There is no category 'poem'"
        ):
            mongo.documents.get([raw(0).id])

    @pytest.mark.parametrize("key", ["", "%", "a.b", "$set", "\x00", "%u0024", "ü", "\ud800", "plain_key"])
    def test_any_metadata_key_has_a_name_that_mongodb_keeps(self, key: str) -> None:
        safe = safe_key(key)
        assert original_key(safe) == key
        assert safe.encode()
        assert not set(safe) & set(".$\x00")

    def test_an_answer_that_is_no_unicode_is_refused(self, mongo: MongoWarehouse) -> None:
        with pytest.raises(StoreError, match="surrogates"):
            mongo.feedback.remember(answered(answer="\ud800"))
        assert mongo.feedback.find_interaction("t0") is None


@pytest.mark.nightly  # a server looks once a minute
@pytest.mark.timeout(150)
def test_the_server_itself_deletes_answers_that_are_due(mongo: MongoWarehouse) -> None:
    mongo.feedback.remember(answered("old", created_at=datetime.now(UTC) - timedelta(days=31)))
    mongo.feedback.remember(answered("new"))
    collection = mongo.feedback._collection()
    deadline = time.monotonic() + 120  # a server looks once a minute
    while collection.count_documents({}) == 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert [record["_id"] for record in collection.find()] == ["new"]


class TestServerGone:
    def test_a_server_that_is_down_gives_one_clear_error_in_under_five_seconds(
        self, connect: Connect
    ) -> None:
        port = free_port()
        warehouse = connect(f"mongodb://user:s3cret@127.0.0.1:{port}/?appName=x", "twin", 0.5)
        calls: list[Callable[[], object]] = [
            warehouse.ping,
            lambda: warehouse.documents.upsert([raw(0)]),
            lambda: list(warehouse.clean.stream()),
            lambda: warehouse.feedback.remember(answered()),
            lambda: warehouse.feedback.vote(said()),
            lambda: warehouse.feedback.find_interaction("t0"),
        ]
        for call in calls:
            started = time.monotonic()
            with pytest.raises(StoreUnavailableError) as caught:
                call()
            assert time.monotonic() - started < allow(5)
            message = str(caught.value)
            assert f"mongodb://127.0.0.1:{port} does not answer" in message
            assert "poe local-infrastructure-up" in message
            assert "s3cret" not in message

    def test_many_threads_that_want_to_keep_answers_wait_for_a_missing_server_once(
        self, connect: Connect
    ) -> None:
        warehouse = connect(f"mongodb://127.0.0.1:{free_port()}", "twin", 1.0)

        def keep(number: int) -> float:
            started = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                warehouse.feedback.remember(answered(str(number)))
            return time.monotonic() - started

        assert max(at_once(12, keep)) < allow(3), "not one second after the other"
        assert max(keep(number) for number in range(5)) < allow(0.2), "it was asked a moment ago"

    def test_for_a_server_elsewhere_the_setting_is_named(self, connect: Connect) -> None:
        warehouse = connect("mongodb://user:s3cret@db.invalid:27017", "twin", 0.5)
        with pytest.raises(StoreUnavailableError, match="DATABASE_URI") as caught:
            warehouse.ping()
        assert "s3cret" not in str(caught.value)
        assert "local-infrastructure-up" not in str(caught.value)

    @pytest.mark.parametrize(
        "uri",
        ["mongodb://", "mongodb://us:er:pa/ss@h", "mongodb://host:notaport", "mongodb://user:p@ss@host:1"],
    )
    def test_an_address_that_cannot_be_read_is_a_configuration_error_without_its_password(
        self, uri: str, connect: Connect
    ) -> None:
        with pytest.raises(ConfigurationError, match="DATABASE_URI") as caught:
            connect(uri, "twin", 0.5).ping()
        assert "pa/ss" not in str(caught.value)
        assert "p@ss" not in str(caught.value)

    def test_a_database_name_that_cannot_be_used_is_a_configuration_error(
        self, mongo_server: LocalMongo, connect: Connect
    ) -> None:
        with pytest.raises(ConfigurationError, match="DATABASE_NAME"):
            connect(mongo_server.uri, "my twin", 3.0).documents.count_documents()

    @pytest.mark.parametrize(
        ("uri", "shown"),
        [
            ("mongodb://127.0.0.1:27027", "mongodb://127.0.0.1:27027"),
            ("mongodb://u:p@a:1,b:2/db?w=majority", "mongodb://a:1,b:2"),
            (
                "mongodb+srv://u:p%40@cluster.example.org/?retryWrites=true",
                "mongodb+srv://cluster.example.org",
            ),
            ("mongodb://u:p/w@host", "mongodb://(address not shown)"),
            ("mongodb://u:p@w@host", "mongodb://(address not shown)"),
            ("mongodb://host/?authMechanismProperties=X:secret@y", "mongodb://(address not shown)"),
        ],
    )
    def test_no_credentials_are_shown(self, connect: Connect, uri: str, shown: str) -> None:
        assert without_credentials(uri) == shown
        assert connect(uri).display_uri == shown

    @pytest.mark.slow
    def test_killed_in_the_middle_and_started_again_the_end_state_is_that_of_an_unbroken_run(
        self, own_mongo_server: LocalMongo, connect: Connect
    ) -> None:
        own_mongo_server.start()
        warehouse = connect(own_mongo_server.uri, "twin", 1.0)
        documents = [raw(number, text=f"{number} " * 500) for number in range(3_000)]

        def write_or_kill(number: int) -> str:
            if number == 1:
                while not warehouse.documents.count_documents():
                    time.sleep(0.01)
                own_mongo_server.kill()
                return "killed"
            started = time.monotonic()
            try:
                for start in range(0, 3_000, 100):
                    started = time.monotonic()
                    warehouse.documents.upsert(documents[start : start + 100])
            except StoreUnavailableError as error:
                return f"{time.monotonic() - started < allow(5)} {error}"
            return "finished"

        writer, killer = at_once(2, write_or_kill)
        assert killer == "killed"
        assert writer.startswith("True ")
        assert "poe local-infrastructure-up" in writer
        own_mongo_server.start()
        for start in range(0, 3_000, 500):
            warehouse.documents.upsert(documents[start : start + 500])
        assert list(warehouse.documents.stream()) == sorted(documents, key=lambda d: d.id)

    @pytest.mark.slow
    def test_a_stream_goes_on_when_the_server_was_restarted_meanwhile(
        self, own_mongo_server: LocalMongo, connect: Connect
    ) -> None:
        own_mongo_server.start()
        warehouse = connect(own_mongo_server.uri, "twin", 3.0)
        documents = [raw(number) for number in range(50)]
        warehouse.documents.upsert(documents)
        stream = warehouse.documents.stream(batch_size=10)
        seen = [next(stream) for _ in range(15)]
        own_mongo_server.stop()
        own_mongo_server.start()
        seen += stream
        assert seen == sorted(documents, key=lambda d: d.id)

    @pytest.mark.slow
    def test_a_stream_whose_server_is_gone_for_good_ends_with_one_error(
        self, own_mongo_server: LocalMongo, connect: Connect
    ) -> None:
        own_mongo_server.start()
        warehouse = connect(own_mongo_server.uri, "twin", 1.0)
        warehouse.documents.upsert([raw(number) for number in range(50)])
        stream = warehouse.documents.stream(batch_size=10)
        next(stream)
        own_mongo_server.stop()
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="does not answer"):
            list(stream)
        assert time.monotonic() - started < allow(5)


def test_a_down_fake_says_so() -> None:
    fake = FakeWarehouse()
    fake.down = True
    with pytest.raises(StoreUnavailableError, match="local-infrastructure-up"):
        fake.documents.upsert([raw(0)])
    with pytest.raises(StoreUnavailableError):
        fake.ping()


def test_the_data_outlives_the_server(own_mongo_server: LocalMongo, connect: Connect) -> None:
    own_mongo_server.start()
    warehouse = connect(own_mongo_server.uri, "twin", 3.0)
    warehouse.documents.upsert([raw(0)])
    own_mongo_server.stop()
    own_mongo_server.start()
    assert list(warehouse.documents.stream()) == [raw(0)]
