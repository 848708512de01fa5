"""Models in folders on this machine, run by transformers: to compare them, not to serve them.

Systems over one base share its weights in memory and differ by the adapter that is switched on, or by none. Prompts are
written by the project's chat templates, tokenized once, and never by the tokenizer's own template.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from llm_engineering.application.evaluation.models.systems import Likelihood, LoadedModel, System, Written
from llm_engineering.application.llm.chat_templates import ChatTemplate
from llm_engineering.application.ports import Message, Progress
from llm_engineering.application.training.finetune.labels import IGNORED, encode_chat, fit_template
from llm_engineering.domain.errors import (
    InvalidInputError,
    MissingDependencyError,
    ModelError,
    ModelFileError,
)

T = TypeVar("T")
_SCORED_AT_ONCE = 4
"""Sequences whose logits are held together: with a vocabulary of 50,000, one of 500 tokens takes 100 MB."""


class TransformersModels:
    """Implements :class:`~llm_engineering.application.evaluation.models.systems.AnsweringModels`."""

    def __init__(self, find: Callable[[str, str | None], str]) -> None:
        """
        Args:
            find: folder or hub name of a base model by name and revision; converts what must be converted.
        """
        self._find = find
        self._loaded: _Loaded | None = None

    @contextmanager
    def open(self, system: System) -> Iterator["TransformersModel"]:
        """See :meth:`AnsweringModels.open`."""
        source = (
            str(system.weights) if system.weights is not None else self._find(system.base, system.revision)
        )
        if self._loaded is None or self._loaded.source != source:
            self.close()
            self._loaded = _load(source, system.revision if system.weights is None else None)
        loaded = self._loaded
        chosen = fit_template(system.template, _ChatTokenizer(loaded.tokenizer), system.base)
        with loaded.speaking_as(system.adapter):
            yield TransformersModel(loaded.model, loaded.tokenizer, chosen)

    def close(self) -> None:
        """Free the weights."""
        self._loaded = None
        gc.collect()


class TransformersModel:
    """Implements :class:`~llm_engineering.application.evaluation.models.systems.AnsweringModel`."""

    def __init__(self, model: Any, tokenizer: Any, template: ChatTemplate) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._template = template
        self._context = int(getattr(model.config, "max_position_embeddings", 2048))

    @property
    def loaded(self) -> LoadedModel:
        """See :attr:`AnsweringModel.loaded`."""
        return LoadedModel(self._model, self._tokenizer, self._template)

    def generate_answers(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_tokens: int,
        repetition_penalty: float,
        batch_size: int,
        progress: Progress,
    ) -> list[Written]:
        """See :meth:`AnsweringModel.generate_answers`. Batches of like length, padded on the left."""
        prompts = [self._prompt(conversation) for conversation in conversations]
        found: dict[int, Written] = {
            place: Written("", 0, True)
            for place, prompt in enumerate(prompts)
            if len(prompt) + 1 > self._context
        }
        waiting = sorted((p for p in range(len(prompts)) if p not in found), key=lambda p: len(prompts[p]))
        for batch in _batches(waiting, batch_size):
            room = min(max_tokens, self._context - max(len(prompts[place]) for place in batch))
            texts = self._generate([prompts[place] for place in batch], room, repetition_penalty)
            found.update(zip(batch, texts, strict=True))
            progress.advance("Answers", len(batch), total=len(waiting))
        return [found[place] for place in range(len(prompts))]

    def compute_likelihoods(
        self, conversations: Sequence[Sequence[Message]], *, batch_size: int, progress: Progress
    ) -> list[Likelihood | None]:
        """See :meth:`AnsweringModel.compute_likelihoods`. Only the tokens that training teaches are scored."""
        tokenizer = _ChatTokenizer(self._tokenizer)
        encoded = [encode_chat(self._template.render(turns), tokenizer) for turns in conversations]
        found: dict[int, Likelihood | None] = {
            place: None for place, chat in enumerate(encoded) if len(chat.input_ids) > self._context
        }
        waiting = sorted(
            (p for p in range(len(encoded)) if p not in found), key=lambda p: len(encoded[p].input_ids)
        )
        for batch in _batches(waiting, min(batch_size, _SCORED_AT_ONCE)):
            scores = self._score([(encoded[p].input_ids, encoded[p].labels) for p in batch])
            found.update(zip(batch, scores, strict=True))
            progress.advance("Likelihoods", len(batch), total=len(waiting))
        return [found[place] for place in range(len(encoded))]

    def _prompt(self, conversation: Sequence[Message]) -> list[int]:
        tokenizer = _ChatTokenizer(self._tokenizer)
        ids, _ = tokenizer.encode(self._template.render(conversation, add_generation_prompt=True).text)
        if tokenizer.adds_bos and tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
            ids = [tokenizer.bos_id, *ids]
        return ids

    def _generate(self, prompts: Sequence[list[int]], max_tokens: int, penalty: float) -> list[Written]:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

        stops = sorted(
            {self._tokenizer.convert_tokens_to_ids(self._template.stop), self._tokenizer.eos_token_id}
        )
        padding = self._tokenizer.pad_token_id
        width = max(len(prompt) for prompt in prompts)
        ids = [[padding] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        settings = GenerationConfig(
            do_sample=False, max_new_tokens=max_tokens, eos_token_id=stops, pad_token_id=padding
        )
        device = self._model.device
        # Of the answer alone: every prompt holds the stop token, which would then hardly come.
        processors = [RepetitionPenaltyLogitsProcessor(penalty, width)] if penalty > 1 else []
        with _explained(), torch.inference_mode():
            out = self._model.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=settings,
                logits_processor=LogitsProcessorList(processors),
            )
        return [self._written(row[width:].tolist(), set(stops)) for row in out]

    def _written(self, tokens: list[int], stops: set[int]) -> Written:
        end = next((place for place, token in enumerate(tokens) if token in stops), None)
        spoken = tokens if end is None else tokens[:end]
        text = self._tokenizer.decode(spoken, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Written(text.strip(), len(spoken), end is None)

    def _score(self, sequences: Sequence[tuple[list[int], list[int]]]) -> list[Likelihood]:
        import torch

        width = max(len(ids) for ids, _ in sequences)
        padding = self._tokenizer.pad_token_id
        device = self._model.device
        ids = torch.tensor([ids + [padding] * (width - len(ids)) for ids, _ in sequences], device=device)
        mask = torch.tensor(
            [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in sequences], device=device
        )
        labels = torch.tensor([own + [IGNORED] * (width - len(own)) for _, own in sequences], device=device)
        found = []
        with _explained(), torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=mask).logits
            for row, wanted in zip(logits[:, :-1], labels[:, 1:], strict=True):
                kept = wanted != IGNORED
                losses = torch.nn.functional.cross_entropy(row[kept].float(), wanted[kept], reduction="sum")
                found.append(Likelihood(float(losses), int(kept.sum())))
        return found


@dataclass
class _Loaded:
    """A base in memory, with the adapters that were switched on so far."""

    source: str
    model: Any
    tokenizer: Any
    adapters: dict[Path, str] = field(default_factory=dict)

    @contextmanager
    def speaking_as(self, adapter: Path | None) -> Iterator[None]:
        if adapter is not None:
            self._switch_to(adapter)
        with self.model.disable_adapter() if adapter is None and self.adapters else nullcontext():
            yield

    def _switch_to(self, adapter: Path) -> None:
        try:
            from peft import PeftModel
        except ImportError:
            raise MissingDependencyError("peft", "training", "Evaluating an adapter") from None
        name = self.adapters.get(adapter) or f"system_{len(self.adapters)}"
        try:
            if not self.adapters:
                self.model = PeftModel.from_pretrained(self.model, str(adapter), adapter_name=name).eval()
            elif adapter not in self.adapters:
                self.model.load_adapter(str(adapter), adapter_name=name)
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelFileError(f"The adapter {adapter} cannot be put over its base: {error}") from error
        self.adapters[adapter] = name
        self.model.set_adapter(name)
        self.model.eval()


class _ChatTokenizer:
    """Implements :class:`~llm_engineering.application.training.finetune.labels.ChatTokenizer`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.eos: str = tokenizer.eos_token
        self.bos_id: int | None = tokenizer.bos_token_id
        added = tokenizer("x", add_special_tokens=True)["input_ids"]
        self.adds_bos = self.bos_id is not None and added[:1] == [self.bos_id]

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return ids and offsets, with nothing added."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(encoded["input_ids"]), [(start, end) for start, end in encoded["offset_mapping"]]


def _load(source: str, revision: str | None) -> _Loaded:
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise MissingDependencyError(error.name or "transformers", "training", "Evaluating models") from None
    cuda = torch.cuda.is_available()
    arguments: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **arguments)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.bfloat16 if cuda else torch.float32, **arguments
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelFileError(f"The model {source} cannot be loaded: {reason}") from error
    if not tokenizer.is_fast or tokenizer.eos_token is None:
        raise InvalidInputError(
            f"The tokenizer of {source} tells no offsets or has no EOS; it cannot be scored."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # masked everywhere, and rows are cut at their first stop
    return _Loaded(source, model.to("cuda" if cuda else "cpu").eval(), tokenizer)


@contextmanager
def _explained() -> Iterator[None]:
    """Lack of memory, told with the knob to turn."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error).lower():
            raise ModelError(
                "Out of memory while a model answered. Lower 'batch_size' or 'max_tokens'."
            ) from error
        raise


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
