"""Systems that answer as told, and count what they were asked."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from llm_engineering.application.evaluation.models.systems import Likelihood, LoadedModel, System, Written
from llm_engineering.application.llm.chat_templates import load_template
from llm_engineering.application.ports import Message, Progress
from llm_engineering.domain.models import Score


class TellingModel:
    """Answers by a function of the question; its likelihood of a word is ``nats``, too long are answers over ``limit``."""

    def __init__(self, answer: Callable[[str], str], nats: float, limit: int) -> None:
        self._answer = answer
        self._nats = nats
        self._limit = limit
        self.tokens_per_word = 1
        self.asked: list[list[Message]] = []

    @property
    def loaded(self) -> LoadedModel:
        return LoadedModel(None, None, load_template("chatml"))

    def generate_answers(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_tokens: int,
        repetition_penalty: float,
        batch_size: int,
        progress: Progress,
    ) -> list[Written]:
        self.asked += [list(turns) for turns in conversations]
        texts = [self._answer(turns[-1].content) for turns in conversations]
        return [
            Written(" ".join(text.split()[:max_tokens]), len(text.split()), len(text.split()) > max_tokens)
            for text in texts
        ]

    def compute_likelihoods(
        self, conversations: Sequence[Sequence[Message]], *, batch_size: int, progress: Progress
    ) -> list[Likelihood | None]:
        counts = [len(turns[-1].content.split()) for turns in conversations]
        return [
            Likelihood(n * self._nats, n * self.tokens_per_word) if n <= self._limit else None for n in counts
        ]


class TellingModels:
    """Opens a :class:`TellingModel` for each system by its name; ``opened`` keeps the order."""

    def __init__(
        self, answers: Mapping[str, Callable[[str], str]], nats: Mapping[str, float], limit: int = 1000
    ) -> None:
        self._models = {
            name: TellingModel(answer, nats.get(name, 1.0), limit) for name, answer in answers.items()
        }
        self.opened: list[str] = []

    @contextmanager
    def open(self, system: System) -> Iterator[TellingModel]:
        self.opened.append(system.name)
        yield self._models[system.name]

    def model(self, name: str) -> TellingModel:
        """To look at what it was asked."""
        return self._models[name]


class SharedWords:
    """Reference metrics without a library: the share of words that stand in the reference."""

    def score_pairs(self, answers: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
        return {"rouge1": [_shared(a, r) for a, r in zip(answers, references, strict=True)]}

    def score_corpus(self, answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        return {"corpus_bleu": _shared(" ".join(answers), " ".join(references))}


def _shared(answer: str, reference: str) -> float:
    words = answer.split()
    return sum(word in reference.split() for word in words) / len(words) if words else 0.0


class ToldHarness:
    """Tasks with one score for every system, or with none, where ``error`` says that they cannot be had."""

    def __init__(self, score: float = 0.5, error: Exception | None = None) -> None:
        self._score = score
        self._error = error
        self.asked: list[str] = []

    def prepare(self) -> None:
        if self._error is not None:
            raise self._error

    def compute_scores(self, system: System, model: LoadedModel) -> list[Score]:
        self.asked.append(system.name)
        low, high = self._score - 0.1, self._score + 0.1
        return [Score(metric="harness/arc/acc", value=self._score, low=low, high=high, n=20)]
