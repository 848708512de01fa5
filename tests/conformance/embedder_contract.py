"""What every embedder keeps. An adapter's tests inherit the class and give the fixture ``embedder``."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_engineering.application.ports import Embedder
from llm_engineering.domain.errors import ModelError

TEXTS = [
    "The cat sat on the mat.",
    "Retrieval augmented generation grounds answers in documents. " * 8,
    "def add(a, b):\n    return a + b",
    "Zürich, Ελλάδα, 日本語 and 😀",
    "x",
    "A cat was sitting on a mat.",
]


def long_text(embedder: Embedder, tokens: int) -> str:
    """A text of exactly ``tokens`` tokens, special ones left out."""
    text = "cat " * tokens
    assert embedder.tokenizer.counts([text]) == [tokens]
    return text


class EmbedderContract:
    def test_vectors_have_the_promised_shape_type_and_length(self, embedder: Embedder) -> None:
        vectors = embedder.embed_documents(TEXTS)
        assert vectors.shape == (len(TEXTS), embedder.fingerprint.dimension)
        assert vectors.dtype == np.float32
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    def test_no_texts_give_no_vectors(self, embedder: Embedder) -> None:
        assert embedder.embed_documents([]).shape == (0, embedder.fingerprint.dimension)
        assert embedder.embed_queries([]).shape == (0, embedder.fingerprint.dimension)

    def test_an_empty_text_has_a_vector_too(self, embedder: Embedder) -> None:
        vectors = embedder.embed_documents(["", "a"])
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    def test_vectors_come_in_the_order_of_the_texts_whatever_the_batches(self, embedder: Embedder) -> None:
        together = embedder.embed_documents(TEXTS * 30)
        alone = np.vstack([embedder.embed_documents([text]) for text in TEXTS] * 30)
        assert (together * alone).sum(axis=1).min() > 0.999

    def test_texts_that_share_meaning_are_nearer_than_texts_that_do_not(self, embedder: Embedder) -> None:
        cat, other, same = embedder.embed_documents([TEXTS[0], TEXTS[2], TEXTS[5]])
        assert cat @ same > cat @ other + 0.1

    def test_a_query_is_near_the_document_that_answers_it(self, embedder: Embedder) -> None:
        documents = embedder.embed_documents(TEXTS)
        [query] = embedder.embed_queries(["Where did the cat sit?"])
        assert int(np.argmax(documents @ query)) in (0, 5)

    def test_a_document_as_long_as_allowed_is_taken(self, embedder: Embedder) -> None:
        allowed = embedder.fingerprint.max_tokens - embedder.tokenizer.special_tokens
        assert len(embedder.embed_documents([long_text(embedder, allowed)])) == 1

    def test_a_document_one_token_longer_is_refused_with_both_numbers(self, embedder: Embedder) -> None:
        limit = embedder.fingerprint.max_tokens
        too_long = long_text(embedder, limit - embedder.tokenizer.special_tokens + 1)
        with pytest.raises(ModelError, match=rf"(?s)Text 1 .*{limit + 1}.*{limit}"):
            embedder.embed_documents(["fine", too_long])

    def test_a_query_that_is_too_long_is_cut(self, embedder: Embedder) -> None:
        limit = embedder.fingerprint.max_tokens - embedder.tokenizer.special_tokens
        exact, longer = embedder.embed_queries([long_text(embedder, limit), long_text(embedder, limit + 500)])
        assert exact @ longer > 0.999

    def test_the_fingerprint_is_the_same_each_time(self, embedder: Embedder) -> None:
        assert embedder.fingerprint == embedder.fingerprint
        assert embedder.fingerprint.digest == embedder.fingerprint.digest

    def test_token_offsets_lie_in_the_text_in_order_and_agree_with_the_count(
        self, embedder: Embedder
    ) -> None:
        @settings(max_examples=60, deadline=None)
        @given(text=st.text(max_size=300))
        def check(text: str) -> None:
            [offsets] = embedder.tokenizer.find_offsets([text])
            assert len(offsets) == embedder.tokenizer.counts([text])[0]
            assert all(0 <= start <= end <= len(text) for start, end in offsets)
            assert [start for start, _ in offsets] == sorted(start for start, _ in offsets)

        check()

    def test_a_tokenizer_that_splits_at_blank_space_counts_word_by_word(self, embedder: Embedder) -> None:
        if not getattr(embedder.tokenizer, "splits_at_blank_space", False):
            pytest.skip("does not promise to")

        @settings(max_examples=60, deadline=None)
        @given(words=st.lists(st.text("abcäß世界.,-_'0😀", min_size=1, max_size=20), max_size=20))
        def check(words: list[str]) -> None:
            assert embedder.tokenizer.counts([" ".join(words)])[0] == sum(embedder.tokenizer.counts(words))

        check()

    def test_closing_twice_does_no_harm(self, embedder: Embedder) -> None:
        embedder.embed_queries(["a"])
        embedder.close()
        embedder.close()
