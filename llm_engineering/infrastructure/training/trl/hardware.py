"""Detect this machine's GPU or CPU, its free memory and the optional libraries."""

import importlib.util
import os
from pathlib import Path

from llm_engineering.application.training.finetune.preflight import Hardware

_CGROUP = Path("/sys/fs/cgroup")


def detect() -> Hardware:
    """Return the device that training would use, and its free memory now. Of several processes, each is put on its own
    GPU."""
    import torch

    devices = int(os.environ.get("WORLD_SIZE", "1"))  # as `accelerate launch` sets it, one process a GPU
    if torch.cuda.is_available():
        # Before anything is loaded: quantised weights go straight to the current GPU, which would be the first for all.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        free, _ = torch.cuda.mem_get_info()
        return Hardware(
            "cuda",
            torch.cuda.get_device_name(),
            free,
            devices,
            bf16=torch.cuda.get_device_capability() >= (8, 0),
            unsloth=_installed("unsloth"),
            bitsandbytes=_installed("bitsandbytes"),
            flash_attention=_installed("flash_attn"),
        )
    return Hardware("cpu", f"CPU, {os.cpu_count()} cores", free_main_memory(), devices)


def free_main_memory() -> int:
    """Return bytes of main memory that can be had: of the machine, or of the container where that allows less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - int(used)))


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
