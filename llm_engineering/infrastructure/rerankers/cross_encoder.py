"""Cross-encoders as ONNX: question and passage read together, one number out (Nogueira & Cho, 2019)."""

import json
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from llm_engineering.application.ports import Part, extract_part
from llm_engineering.domain.errors import ModelFileError
from llm_engineering.infrastructure.shared.onnx import open_session
from llm_engineering.infrastructure.shared.token_batches import Ids, batches_by_length, pad_rows

WEIGHTS = ("model.onnx", "onnx/model.onnx")
"""Where the weights may lie in a folder or a repository; the first that is there is taken."""
TOKENIZER = "tokenizer.json"
MAX_TOKENS = 512
"""Of a pair where the model's files do not say: what BERT was trained on."""


@dataclass(frozen=True, slots=True)
class _Files:
    weights: Path
    tokenizer: Path
    configs: tuple[Path, ...]
    """``config.json`` and ``tokenizer_config.json``, as far as they are there: they say how long a pair may be."""


@dataclass(frozen=True, slots=True)
class _Opened:
    session: Any
    tokenizer: Any
    inputs: frozenset[str]
    padding: int
    pool: ThreadPoolExecutor


class CrossEncoderReranker:
    """Scores pairs with a model of a local folder or of the hub. Opened on first use; threads may share an instance.

    Args:
        model: a folder with ``model.onnx`` (or ``onnx/model.onnx``) and ``tokenizer.json``, or a name on the hub.
        revision: commit of the hub's repository; None takes the newest and says in the log which one that is.
        threads: batches that run at the same time, 0 for one per core.
        batch_tokens: padded tokens of one forward pass.
        endpoint: address of the hub; None: the public one, or what ``HF_ENDPOINT`` says.
        cache_dir: where files of the hub are kept; None: the hub's own place (``HF_HOME``).
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        threads: int = 0,
        batch_tokens: int = 2048,
        *,
        endpoint: str | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        self._model = model
        self._revision = revision
        self._threads = threads or len(
            os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        )
        self._batch_tokens = batch_tokens
        self._endpoint = endpoint
        self._cache_dir = cache_dir
        self._lock = threading.Lock()
        self._opened: _Opened | None = None

    @property
    def name(self) -> str:
        """Without the folders above a local one, which are nobody's business."""
        return f"cross_encoder/{Path(self._model).name if Path(self._model).is_dir() else self._model}"

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return the model's raw score of each pair, in the order given: its last activation would not change the
        order.

        A pair that is too long loses tokens of the longer side, so that the question is never cut away.

        Raises:
            ModelFileError: the model's files are missing, broken, or not those of a cross-encoder with one score.
        """
        if not texts:
            return []
        opened = self._open()
        asked = _valid(query)
        pairs = opened.tokenizer.encode_batch_fast([(asked, _valid(text)) for text in texts])
        batches = list(batches_by_length([len(pair.ids) for pair in pairs], self._batch_tokens))
        running = [opened.pool.submit(self._forward, opened, [pairs[i] for i in rows]) for rows in batches]
        scores = np.empty(len(texts), dtype=np.float64)
        for rows, future in zip(batches, running, strict=True):
            scores[rows] = future.result()
        return [float(score) for score in scores]

    def rerank_parts(self, query: str, texts: Sequence[str], parts: Sequence[Part]) -> list[float]:
        """Return the score of each part, read as a text of its own.

        Raises:
            ModelFileError: see :meth:`rerank`.
        """
        return self.rerank(query, [extract_part(texts, part) for part in parts])

    def close(self) -> None:
        """Let go of the model. Safe to call twice; a later call opens it again."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.pool.shutdown()

    def _forward(self, opened: _Opened, pairs: Sequence[Any]) -> np.ndarray:
        rows: dict[str, tuple[list[Ids], int]] = {
            "input_ids": ([_row(pair.ids) for pair in pairs], opened.padding),
            "attention_mask": ([_row(pair.attention_mask) for pair in pairs], 0),
            "token_type_ids": ([_row(pair.type_ids) for pair in pairs], 0),
        }
        given = {
            name: pad_rows(values, fill) for name, (values, fill) in rows.items() if name in opened.inputs
        }
        scores = np.asarray(opened.session.run(None, given)[0])
        if scores.shape not in ((len(pairs),), (len(pairs), 1)):
            raise ModelFileError(
                f"The model {self._model} gave scores of shape {scores.shape} for {len(pairs)} pairs; expected one for "
                "each. Choose a cross-encoder with a single output (RERANKER_MODEL)."
            )
        return scores.reshape(-1).astype(np.float64)

    def _open(self) -> _Opened:
        with self._lock:
            if self._opened is None:
                files = (
                    self._local(Path(self._model).expanduser())
                    if _is_folder(self._model)
                    else self._from_hub()
                )
                tokenizer, padding = _tokenizer(files)
                session = open_session(files.weights, files.weights, "Delete it and fetch it again.")
                inputs = frozenset(item.name for item in session.get_inputs())
                if unknown := inputs - {"input_ids", "attention_mask", "token_type_ids"}:
                    raise ModelFileError(
                        f"{files.weights} asks for inputs that no cross-encoder has: {', '.join(sorted(unknown))}. "
                        "Choose another model (RERANKER_MODEL)."
                    )
                pool = ThreadPoolExecutor(self._threads, thread_name_prefix="rerank")
                self._opened = _Opened(session, tokenizer, inputs, padding, pool)
            return self._opened

    def _local(self, folder: Path) -> _Files:
        weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        if weights is None or not (folder / TOKENIZER).is_file():
            raise ModelFileError(
                f"The folder {folder} holds no cross-encoder: expected {' or '.join(WEIGHTS)}, and {TOKENIZER}. Set "
                "RERANKER_MODEL to a folder that does, or to a name on the hub; or use RERANKER_KIND=late_interaction, "
                "whose model is bundled."
            )
        configs = (folder / "config.json", folder / "tokenizer_config.json")
        return _Files(weights, folder / TOKENIZER, tuple(file for file in configs if file.is_file()))

    def _from_hub(self) -> _Files:
        weights = next((file for name in WEIGHTS[::-1] if (file := self._fetched(name))), None)
        tokenizer = self._fetched(TOKENIZER)
        if weights is None or tokenizer is None:
            raise ModelFileError(
                f"{self._model} on the hub holds no ONNX cross-encoder: expected {' or '.join(WEIGHTS)}, and {TOKENIZER}. "
                "Set RERANKER_MODEL to one that does, or use RERANKER_KIND=late_interaction, whose model is bundled."
            )
        if self._revision is None:
            commit = (
                weights.parts[weights.parts.index("snapshots") + 1] if "snapshots" in weights.parts else "?"
            )
            logger.warning(
                "The reranker {} is of the newest revision; set RERANKER_REVISION={} to keep it from changing.",
                self._model,
                commit,
            )
        configs = (self._fetched(name, optional=True) for name in ("config.json", "tokenizer_config.json"))
        return _Files(weights, tokenizer, tuple(file for file in configs if file))

    def _fetched(self, file: str, *, optional: bool = False) -> Path | None:
        """A file of the repository; None where it has no such file. A pinned one that was fetched before asks nobody."""
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
        from huggingface_hub.errors import LocalEntryNotFoundError as UnreachableError

        try:
            if self._revision:
                cached = try_to_load_from_cache(self._model, file, self._cache_dir, self._revision)
                if cached is not None:  # a path, or a mark that the repository has no such file
                    return Path(cached) if isinstance(cached, str) else None
            return Path(
                hf_hub_download(
                    self._model,
                    file,
                    revision=self._revision,
                    endpoint=self._endpoint,
                    cache_dir=self._cache_dir,
                )
            )
        except UnreachableError:  # a kind of EntryNotFoundError, but the hub did not say so
            if optional:
                return None
            reason = "the hub does not answer, and the file is not on this machine yet"
        except EntryNotFoundError:
            return None
        except HFValidationError:
            reason = "there is no folder of that name, and no repository of the hub can be called so"
        except HfHubHTTPError as error:
            reason = f"the hub refused ({str(error).splitlines()[0]})"
        except OSError as error:
            reason = str(error)
        at = f" at revision {self._revision}" if self._revision else ""
        raise ModelFileError(
            f"{file} of the reranker {self._model}{at} cannot be had: {reason}. Check RERANKER_MODEL and RERANKER_REVISION, "
            "set RERANKER_MODEL to a local folder, or use RERANKER_KIND=late_interaction, whose model is bundled."
        ) from None


def _is_folder(model: str) -> bool:
    """A name on the hub is ``owner/name``; what exists here, or is written as a path, is one."""
    return Path(model).is_dir() or model.startswith(("/", "./", "../", "~")) or model.count("/") > 1


def _tokenizer(files: _Files) -> tuple[Any, int]:
    """The tokenizer, set to cut pairs to what the model takes, and the id that fills up short rows."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(files.tokenizer.read_bytes())
        limit = _max_tokens(tokenizer.truncation, [_read_json(file) for file in files.configs])
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"The reranker's {files.tokenizer} cannot be used ({error}). Delete it and fetch the model again."
        ) from error
    padding = (tokenizer.padding or {}).get("pad_id", 0)
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit, strategy="longest_first")
    return tokenizer, padding


def _max_tokens(truncation: Mapping[str, Any] | None, configs: Sequence[Mapping[str, Any]]) -> int:
    """The least of what the files say; some say an absurd number for "no limit", so never more than 512 unsaid."""
    said = [truncation["max_length"]] if truncation else []
    for config in configs:
        said += [config[key] for key in ("model_max_length", "max_position_embeddings") if key in config]
        if "roberta" in str(config.get("model_type")) and "max_position_embeddings" in config:
            said[-1] -= 2  # its positions are counted from 2
    limits = [int(value) for value in said if isinstance(value, int | float) and 8 <= value <= 100_000]
    return min(limits, default=MAX_TOKENS)


def _read_json(file: Path) -> Mapping[str, Any]:
    found = json.loads(file.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def _row(numbers: Sequence[int]) -> Ids:
    return np.array(numbers, dtype=np.int64)


def _valid(text: str) -> str:
    """Half a surrogate pair, which no tokenizer takes, becomes "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")
