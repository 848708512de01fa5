"""Turn errors of a training run (memory, disk) into messages that name the setting to change."""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_engineering.application.training.finetune.config import SftConfig, TrainingConfig
from llm_engineering.domain.errors import TrainingError

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|cannot allocate memory", re.I)
_NO_SPACE = re.compile(
    r"no space left on device|disk quota exceeded|file too large|file write failed|unexpected pos", re.I
)
_NO_SPACE_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def explain_failures(config: TrainingConfig, folder: Path, device: str) -> Iterator[None]:
    """Turn exceptions of lack into errors that say what to do; others pass as they are.

    Raises:
        TrainingError: memory or disk ran out.
    """
    try:
        yield
    except TrainingError:
        raise
    except MemoryError as error:
        raise TrainingError(_memory(config, device)) from error
    except OSError as error:
        if error.errno in _NO_SPACE_CODES:
            raise TrainingError(_disk(config, folder)) from error
        raise
    except Exception as error:
        # PyTorch and safetensors have no exception of their own for these on every device; their words are all there is.
        if _NO_MEMORY.search(str(error)):
            raise TrainingError(_memory(config, device)) from error
        if _NO_SPACE.search(str(error)):
            raise TrainingError(_disk(config, folder)) from error
        raise


def _memory(config: TrainingConfig, device: str) -> str:
    knobs = []
    if config.batch_size > 1:
        whole = config.batch_size * config.gradient_accumulation_steps
        knobs.append(f"batch_size: 1 with gradient_accumulation_steps: {whole} (the same effective batch)")
    if not config.gradient_checkpointing:
        knobs.append("gradient_checkpointing: true")
    knobs.append(f"max_length below {config.max_length}")
    chosen = isinstance(config, SftConfig)  # else the method is that of the SFT model
    if chosen and config.method == "full":
        knobs.append("method: lora")
    if chosen and device == "cuda" and config.method != "qlora":
        knobs.append("method: qlora")
    return f"Out of memory on {device}. Try, in this order: {'; '.join(knobs)}; or a smaller base model."


def _disk(config: TrainingConfig, folder: Path) -> str:
    free = shutil.disk_usage(folder if folder.exists() else Path()).free
    knobs = ["free some space", "set 'output_dir' to another disk"]
    if config.save_total_limit is not None:
        knobs.append(f"save_total_limit below {config.save_total_limit} or a larger save_steps")
    return (
        f"The disk is full, or a file-size limit was reached: {free / 2**20:,.0f} MiB are left at {folder}. Try: "
        f"{'; '.join(knobs)}. The last complete checkpoint is kept; rerun the same command to resume from it."
    )


def check_disk(config: TrainingConfig, folder: Path, trained: int, optimizer: int) -> None:
    """Refuse a run whose checkpoints will not fit.

    Args:
        trained: bytes of the trained weights.
        optimizer: bytes of the optimizer's state.

    Raises:
        TrainingError: there is less free space than its checkpoints and its result need.
    """
    checkpoints = (config.save_total_limit or 0) + (config.save_steps is not None)
    needed = checkpoints * (trained + optimizer) + trained
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise TrainingError(
            f"{needed / 2**20:,.0f} MiB are needed for {checkpoints} checkpoints and the result. "
            + _disk(config, folder)
        )
