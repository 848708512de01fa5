"""Measure the peak memory of a training run."""

import ctypes
import gc
import sys
import threading
from types import TracebackType

SECONDS = 0.05


class MemoryWatch:
    """Measures, for the time of the block, the peak above what was held at its beginning.

    CUDA counts its own peak. On a CPU the resident memory of the process is read 20 times a second; what is held for less
    time may be missed. What an earlier training of the process has left is given back first: used again, it would be unseen.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory-watch", daemon=True)
        self._first = 0
        self._peak = 0

    def __enter__(self) -> "MemoryWatch":
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._first = torch.cuda.memory_allocated()
        else:
            _give_back()
            self._first = self._peak = _resident()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cuda:
            import torch

            self._peak = int(torch.cuda.max_memory_allocated())
            return
        self._ended.set()
        self._thread.join()
        self._peak = max(self._peak, _resident())

    @property
    def peak(self) -> int:
        """Bytes; after the block."""
        return self._peak - self._first

    def _sample(self) -> None:
        while not self._ended.wait(SECONDS):
            self._peak = max(self._peak, _resident())


def _give_back() -> None:
    """Free what nobody refers to, and hand the allocator's empty pages to the system, where the C library can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)
