"""The rerankers: the fake, late interaction with the bundled model, and a cross-encoder from a folder and from a hub."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from loguru import logger

from llm_engineering.application.ports import Reranker
from llm_engineering.bootstrap.resources import Resources
from llm_engineering.domain.documents import Span
from llm_engineering.domain.errors import ModelFileError
from llm_engineering.infrastructure import model_files
from llm_engineering.infrastructure.embedders.onnx import OnnxEmbedder
from llm_engineering.infrastructure.rerankers.cross_encoder import CrossEncoderReranker
from llm_engineering.infrastructure.rerankers.late_interaction import LateInteractionReranker
from llm_engineering.settings import load_settings
from tests.conformance.reranker_contract import ANSWER, QUESTION, TEXTS, RerankerContract
from tests.fakes.hub import COMMIT, ModelHub
from tests.fakes.onnx_model import cross_encoder
from tests.fakes.reranker import WordOverlapReranker

MODELS = Path("models")
BERT_WORDS, SPECIAL = 30_522, (0, 100, 101, 102)


@pytest.fixture(scope="module")
def model_dir() -> Path:
    model_files.verify("all-MiniLM-L6-v2", MODELS)  # names the task that fetches it
    return model_files.model_path("all-MiniLM-L6-v2", MODELS)


@pytest.fixture(scope="module")
def encoder(model_dir: Path) -> Iterator[OnnxEmbedder]:
    encoder = OnnxEmbedder(model_dir)
    yield encoder
    encoder.close()


class TestWordOverlap(RerankerContract):
    @pytest.fixture
    def reranker(self) -> Reranker:
        return WordOverlapReranker()


class TestLateInteraction(RerankerContract):
    @pytest.fixture
    def reranker(self, encoder: OnnxEmbedder) -> Iterator[Reranker]:
        reranker = LateInteractionReranker(encoder)
        yield reranker
        reranker.close()

    def test_a_part_that_is_the_whole_text_scores_as_the_text(self, encoder: OnnxEmbedder) -> None:
        reranker = LateInteractionReranker(encoder)
        long = (
            f"{ANSWER} Zürich 日本語 😀. " + "Rain fell on the hills. " * 100
        )  # more than the model reads at once
        texts = [long, TEXTS[0]]
        whole = [(place, (Span(start=0, end=len(text)),)) for place, text in enumerate(texts)]
        assert reranker.rerank_parts(QUESTION, texts, whole) == reranker.rerank(QUESTION, texts)
        late = long.index("Rain")
        halves = [(0, (Span(start=0, end=late),)), (0, (Span(start=late, end=len(long)),))]
        first, second = reranker.rerank_parts(QUESTION, texts, halves)
        assert first > second

    def test_scores_do_not_depend_on_what_is_cached(self, encoder: OnnxEmbedder) -> None:
        warm, cold = LateInteractionReranker(encoder), LateInteractionReranker(encoder, cache_bytes=0)
        warm.rerank("another question", TEXTS[::2])
        assert warm.rerank(QUESTION, TEXTS) == cold.rerank(QUESTION, TEXTS)

    def test_a_passage_goes_through_the_model_once(self, encoder: OnnxEmbedder) -> None:
        counting = Counting(encoder)
        reranker = LateInteractionReranker(counting)
        reranker.rerank(QUESTION, TEXTS)
        reranker.rerank("And another one?", [*TEXTS, "A new text."])
        assert counting.texts == [QUESTION, *TEXTS, "And another one?", "A new text."]

    def test_the_cache_stays_within_its_bytes(self, encoder: OnnxEmbedder) -> None:
        reranker = LateInteractionReranker(encoder, cache_bytes=20_000)
        for n in range(20):
            reranker.rerank(QUESTION, [f"Text number {n} of many."])
            assert 0 < reranker._cache.nbytes <= 20_000

    def test_meaning_counts_where_no_word_is_shared(self, reranker: Reranker) -> None:
        near, far = reranker.rerank("automobile", ["He drove his car home.", "She ate an apple."])
        assert near > far + 0.05

    def test_a_long_text_is_read_to_its_end(self, encoder: OnnxEmbedder, reranker: Reranker) -> None:
        filler = "Rain fell on the hills. " * 200
        assert encoder.tokenizer.counts([filler])[0] > 3 * encoder.fingerprint.max_tokens
        with_answer, without = reranker.rerank(QUESTION, [filler + ANSWER, filler])
        assert with_answer > without + 0.2

    def test_missing_weights_name_the_task_that_fetches_them(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match="poe download-models"):
            LateInteractionReranker(OnnxEmbedder(tmp_path)).rerank("a", ["b"])


class Counting:
    """Passes on to an encoder and keeps what was asked of it."""

    def __init__(self, encoder: OnnxEmbedder) -> None:
        self._encoder = encoder
        self.model = encoder.model
        self.token_vectors_of = encoder.token_vectors
        self.texts: list[str] = []

    def token_vectors(self, texts: list[str]) -> list:
        self.texts += texts
        return self.token_vectors_of(texts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    """A cross-encoder in the layout of the hub."""
    folder = tmp_path_factory.mktemp("tiny-cross-encoder")
    cross_encoder(folder / "onnx" / "model.onnx", BERT_WORDS, SPECIAL)
    (folder / "tokenizer.json").write_bytes((model_dir / "tokenizer.json").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64}), encoding="utf-8")
    return folder


class TestCrossEncoderOfAFolder(RerankerContract):
    @pytest.fixture
    def reranker(self, folder: Path) -> Iterator[Reranker]:
        reranker = CrossEncoderReranker(str(folder), batch_tokens=200)
        yield reranker
        reranker.close()

    def test_it_opens_again_after_being_closed(self, reranker: Reranker) -> None:
        before = reranker.rerank(QUESTION, TEXTS)
        reranker.close()
        assert reranker.rerank(QUESTION, TEXTS) == pytest.approx(before, abs=1e-6)

    def test_scores_are_the_models_own(self, reranker: Reranker) -> None:
        same, other = reranker.rerank("cat sofa", ["sofa cat", "quantum"])
        assert same == pytest.approx(1, abs=1e-5)
        assert abs(other) < 0.5

    def test_neither_side_of_a_long_pair_is_cut_away(self, reranker: Reranker) -> None:
        long, short = "cat " * 300, "dog " * 5
        [long_question] = reranker.rerank(long, ["cat " * 300])
        [long_text] = reranker.rerank("dog dog dog", [short + long])
        [long_query] = reranker.rerank(short + long, ["dog dog dog"])
        assert long_question == pytest.approx(1, abs=1e-5)
        assert long_text != 0
        assert long_query != 0

    def test_what_a_model_takes_at_most_is_read_from_its_files(
        self, folder: Path, reranker: Reranker
    ) -> None:
        # Of 64 tokens 3 are special and 1 is the question: what comes after 60 words counts no more.
        kept, cut = reranker.rerank("cat", ["dog " * 59 + "cat", "dog " * 60 + "cat"])
        [without] = reranker.rerank("cat", ["dog " * 60])
        assert kept > without
        assert cut == pytest.approx(without, abs=1e-6)

    def test_a_folder_without_weights_says_what_was_expected(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match=r"model\.onnx.*RERANKER_MODEL.*late_interaction"):
            CrossEncoderReranker(str(tmp_path)).rerank("a", ["b"])
        with pytest.raises(ModelFileError, match=r"model\.onnx"):
            CrossEncoderReranker("./no/such/folder").rerank("a", ["b"])

    @pytest.mark.parametrize("broken", ["onnx/model.onnx", "tokenizer.json"])
    def test_a_broken_file_is_named(self, tmp_path: Path, folder: Path, broken: str) -> None:
        for name in ("onnx/model.onnx", "tokenizer.json"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"not this" if name == broken else (folder / name).read_bytes())
        with pytest.raises(ModelFileError, match=broken):
            CrossEncoderReranker(str(tmp_path)).rerank("a", ["b"])

    def test_a_model_with_several_scores_is_refused(self, tmp_path: Path, folder: Path) -> None:
        cross_encoder(tmp_path / "model.onnx", BERT_WORDS, SPECIAL, scores=3)
        (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
        reranker = CrossEncoderReranker(str(tmp_path))
        with pytest.raises(ModelFileError, match=r"\(2, 3\).*single output"):
            reranker.rerank("a", ["b", "c"])
        reranker.close()

    def test_a_model_with_other_inputs_is_refused(self, tmp_path: Path, folder: Path) -> None:
        names = ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
        cross_encoder(tmp_path / "model.onnx", BERT_WORDS, SPECIAL, inputs=names)
        (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
        with pytest.raises(ModelFileError, match="pixel_values"):
            CrossEncoderReranker(str(tmp_path)).rerank("a", ["b"])


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    # The client asks a hub that fails six times, over 23 seconds.
    monkeypatch.setattr(
        "huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None, time=time.time)
    )
    with ModelHub(folder) as hub:
        yield hub


@pytest.mark.allow_hosts(["127.0.0.1"])
class TestCrossEncoderOfTheHub:
    def reranker(self, hub: ModelHub, cache: Path, revision: str | None = COMMIT) -> CrossEncoderReranker:
        return CrossEncoderReranker(hub.name, revision, endpoint=hub.url, cache_dir=cache)

    def test_it_is_fetched_at_the_pinned_revision_and_once(self, hub: ModelHub, tmp_path: Path) -> None:
        reranker = self.reranker(hub, tmp_path)
        scores = reranker.rerank(QUESTION, TEXTS)
        reranker.close()
        assert scores.index(max(scores)) == TEXTS.index(ANSWER)
        assert all(f"/resolve/{COMMIT}/" in path for _, path in hub.requests)
        fetched = [path.rpartition("/")[2] for method, path in hub.requests if method == "GET"]
        assert sorted(fetched) == ["model.onnx", "tokenizer.json", "tokenizer_config.json"]

        again = self.reranker(hub, tmp_path)
        before = len(hub.requests)
        assert again.rerank(QUESTION, TEXTS) == pytest.approx(scores, abs=1e-6)
        again.close()
        assert hub.requests[before:] == []

    @pytest.mark.parametrize("revision", [COMMIT, None])
    def test_what_was_fetched_serves_without_the_hub(
        self, hub: ModelHub, tmp_path: Path, revision: str | None
    ) -> None:
        reranker = self.reranker(hub, tmp_path, revision)
        before = reranker.rerank(QUESTION, TEXTS)
        reranker.close()
        hub.status = 503
        offline = self.reranker(hub, tmp_path, revision)
        assert offline.rerank(QUESTION, TEXTS) == pytest.approx(before, abs=1e-6)
        offline.close()

    def test_an_unpinned_model_is_told_with_the_commit_to_pin(self, hub: ModelHub, tmp_path: Path) -> None:
        lines: list[str] = []
        sink = logger.add(lines.append, level="WARNING")
        reranker = self.reranker(hub, tmp_path, None)
        reranker.rerank(QUESTION, TEXTS)
        reranker.close()
        logger.remove(sink)
        assert any(f"RERANKER_REVISION={COMMIT}" in line for line in lines)

    def test_an_unknown_repository_and_an_unknown_revision_say_what_to_check(
        self, hub: ModelHub, tmp_path: Path
    ) -> None:
        unknown = CrossEncoderReranker("maker/absent", COMMIT, endpoint=hub.url, cache_dir=tmp_path)
        with pytest.raises(ModelFileError, match=r"maker/absent.*RERANKER_MODEL and RERANKER_REVISION"):
            unknown.rerank("a", ["b"])
        with pytest.raises(ModelFileError, match=r"at revision d{40}.*RERANKER_REVISION"):
            self.reranker(hub, tmp_path, "d" * 40).rerank("a", ["b"])

    def test_a_repository_without_onnx_weights_says_so(
        self, folder: Path, tmp_path: Path, model_dir: Path
    ) -> None:
        (tmp_path / "repository").mkdir()
        (tmp_path / "repository" / "tokenizer.json").write_bytes((model_dir / "tokenizer.json").read_bytes())
        with ModelHub(tmp_path / "repository") as hub:
            reranker = self.reranker(hub, tmp_path / "cache")
            with pytest.raises(ModelFileError, match="holds no ONNX cross-encoder"):
                reranker.rerank("a", ["b"])

    def test_a_hub_that_cannot_be_reached_is_told_from_a_missing_model(
        self, hub: ModelHub, tmp_path: Path
    ) -> None:
        away = CrossEncoderReranker(hub.name, COMMIT, endpoint="http://127.0.0.1:9", cache_dir=tmp_path)
        with pytest.raises(ModelFileError, match="does not answer"):
            away.rerank("a", ["b"])
        hub.status = 500
        with pytest.raises(ModelFileError, match="cannot be had"):
            self.reranker(hub, tmp_path).rerank("a", ["b"])


class TestWhatTheSettingsName:
    def resources(self, stack: ExitStack, **reranker: object) -> Resources:
        return Resources(load_settings(None, reranker=reranker), stack)

    def test_late_interaction_is_the_default_and_shares_the_embedders_model(self) -> None:
        with ExitStack() as stack:
            resources = Resources(load_settings(None), stack)
            reranker = resources.reranker
            assert reranker is resources.reranker
            assert reranker is not None
            assert reranker.name == "late_interaction/all-MiniLM-L6-v2"
            assert resources._token_encoder is resources.embedder
            assert len(reranker.rerank(QUESTION, TEXTS)) == len(TEXTS)

    def test_with_embeddings_of_a_service_the_bundled_model_still_reranks(self) -> None:
        embedder = {"kind": "openai_http", "base_url": "http://127.0.0.1:9/v1"}
        with ExitStack() as stack:
            resources = Resources(load_settings(None, embedder=embedder), stack)
            assert resources.reranker is not None
            assert resources._token_encoder is not resources.embedder
            scores = resources.reranker.rerank(QUESTION, TEXTS)
            assert scores.index(max(scores)) == TEXTS.index(ANSWER)

    def test_a_model_means_a_cross_encoder_and_none_means_none(self, folder: Path) -> None:
        with ExitStack() as stack:
            chosen = self.resources(stack, model=str(folder)).reranker
            assert isinstance(chosen, CrossEncoderReranker)
            assert chosen.name == f"cross_encoder/{folder.name}"
            assert self.resources(stack, kind="none").reranker is None

    def test_it_is_closed_with_the_resources(self, folder: Path) -> None:
        with ExitStack() as stack:
            reranker = self.resources(stack, model=str(folder)).reranker
            assert isinstance(reranker, CrossEncoderReranker)
            reranker.rerank(QUESTION, TEXTS)
            assert reranker._opened is not None
        assert reranker._opened is None
