"""A language model from nothing, to see learning happen: a tokenizer and a million weights, in minutes on a CPU.

The same parts as in a large one, in the same order: byte-level BPE, Llama's blocks, next-token loss, AdamW with a warm-up.
It learns the letters, words and turns of its text, and nothing of what they mean.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_engineering.application.ports import Progress
from llm_engineering.domain.errors import InvalidInputError, MissingDependencyError

VOCABULARY = 1024
_CONTEXT = 128
_BATCH = 16
_HELD_OUT = 0.1
"""Of the end of each text: scored, never learned."""
_RATE = 3e-3
_WARMUP_STEPS = 20
_SCORED_EVERY = 25
_PATIENCE = 4
"""Scores in a row without progress that end the training."""
_FEWEST_CHARACTERS = 20_000
_END = "<|end|>"


@dataclass(frozen=True, slots=True)
class TinyModel:
    """What came of it."""

    parameters: int
    tokens: int
    """Of the text that was learned from."""
    steps: int
    seconds: float
    curve: tuple[tuple[int, float, float], ...]
    """Step, mean training loss since the one before and loss on held-out text, in nats a token. The first is before any step."""
    best: int
    """Step whose weights were kept: the lowest loss on held-out text."""
    samples: tuple[tuple[int, str], ...]
    """What it wrote before, on the way and at the end, by step."""


def train_tiny_model(
    texts: Sequence[str],
    folder: Path,
    *,
    minutes: float,
    steps: int,
    seed: int,
    prompt: str,
    progress: Progress,
) -> TinyModel:
    """Train until the time is over or held-out text gets no better, and save the best weights as ``transformers`` loads them.

    Args:
        texts: at least 20,000 characters together.
        minutes: of training, at most.
        steps: likewise.
        prompt: what its samples begin with.

    Raises:
        InvalidInputError: there is too little text.
        MissingDependencyError: torch or transformers are not installed.
    """
    if (size := sum(map(len, texts))) < _FEWEST_CHARACTERS:
        raise InvalidInputError(
            f"{size:,} characters are too few to learn to write from; at least {_FEWEST_CHARACTERS:,} are needed."
        )
    try:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    except ImportError:
        raise MissingDependencyError("torch", "training", "Training a model from nothing") from None
    learned = [text[: int(len(text) * (1 - _HELD_OUT))] for text in texts]
    held = [text[int(len(text) * (1 - _HELD_OUT)) :] for text in texts]
    tokenizer = _learn_tokenizer(learned)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=2 * _CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(_END),
    )
    model = LlamaForCausalLM(config)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # its matrices are so small that threads would mostly wait for each other
    run = _Run(model, tokenizer, _ids(tokenizer, learned), _ids(tokenizer, held), prompt)
    try:
        found = run.train(minutes * 60, steps, progress)
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END, pad_token=_END).save_pretrained(
        folder
    )
    return found


def _learn_tokenizer(texts: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _ids(tokenizer: Any, texts: Sequence[str]) -> Any:
    import torch

    end = tokenizer.token_to_id(_END)
    return torch.tensor([number for text in texts for number in (*tokenizer.encode(text).ids, end)])


class _Run:
    """One training."""

    def __init__(self, model: Any, tokenizer: Any, learned: Any, held: Any, prompt: str) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._learned = learned
        self._held = held
        self._prompt = prompt

    def train(self, seconds: float, steps: int, progress: Progress) -> TinyModel:
        """Train within these seconds and steps; the model then has its best weights."""
        import torch

        optimizer = torch.optim.AdamW(self._model.parameters(), lr=_RATE, weight_decay=0.1)
        first = self._score()
        curve, samples = [(0, first, first)], [(0, self._write())]
        kept, best, losses, step = self._copy_weights(), 0, [], 0
        begun = time.monotonic()
        while (share := max((time.monotonic() - begun) / seconds, step / steps)) < 1:
            step += 1
            for group in optimizer.param_groups:  # up, then down to nothing at the end
                group["lr"] = _RATE * min(step / _WARMUP_STEPS, 0.5 * (1 + math.cos(math.pi * share)))
            losses.append(self._learn(optimizer))
            progress.advance("Steps")
            if step % _SCORED_EVERY == 0:
                curve.append((step, sum(losses) / len(losses), self._score()))
                losses = []
                if curve[-1][2] < min(score for _, _, score in curve[:-1]):
                    kept, best = self._copy_weights(), step
                if step == _SCORED_EVERY:
                    samples.append((step, self._write()))
                if sum(number > best for number, _, _ in curve) >= _PATIENCE:
                    break
        self._model.load_state_dict(kept)
        samples.append((best, self._write()))
        parameters = sum(weights.numel() for weights in self._model.parameters())
        return TinyModel(
            parameters,
            len(self._learned),
            step,
            time.monotonic() - begun,
            tuple(curve),
            best,
            tuple(dict(samples).items()),
        )

    def _learn(self, optimizer: Any) -> float:
        import torch

        self._model.train()
        starts = torch.randint(len(self._learned) - _CONTEXT, (_BATCH,)).tolist()
        batch = torch.stack([self._learned[start : start + _CONTEXT] for start in starts])
        loss = self._model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    def _score(self) -> float:
        """Mean loss on held-out text, piece by piece."""
        import torch

        self._model.eval()
        pieces = [self._held[start : start + _CONTEXT] for start in range(0, len(self._held) - 1, _CONTEXT)]
        total, count = 0.0, 0
        with torch.no_grad():
            for piece in (piece for piece in pieces if len(piece) > 1):
                loss = self._model(input_ids=piece[None], labels=piece[None]).loss
                total, count = total + float(loss) * (len(piece) - 1), count + len(piece) - 1
        return total / count

    def _write(self, tokens: int = 60) -> str:
        import torch

        self._model.eval()
        ids = torch.tensor([self._tokenizer.encode(self._prompt).ids])
        state = torch.get_rng_state()  # a sample must not change what is drawn next
        torch.manual_seed(0)
        with torch.no_grad():
            for _ in range(tokens):
                logits = self._model(input_ids=ids[:, -_CONTEXT:]).logits[:, -1] / 0.7
                likely = torch.topk(logits, 40)
                drawn = torch.multinomial(torch.softmax(likely.values, -1), 1)
                ids = torch.cat([ids, likely.indices.gather(-1, drawn)], dim=1)
        torch.set_rng_state(state)
        return str(self._tokenizer.decode(ids[0].tolist()))

    def _copy_weights(self) -> dict[str, Any]:
        return {name: weights.detach().clone() for name, weights in self._model.state_dict().items()}
