"""ONNX sessions on the CPU, by a runtime that tells nobody."""

import os
from pathlib import Path
from typing import Any

from llm_engineering.domain.errors import ModelFileError


def open_session(model: bytes | Path, file: Path, remedy: str, *, operator_threads: int = 1) -> Any:
    """Open an ONNX session. With one operator thread, everything runs on the calling thread.

    Args:
        model: the content, or the path of a model with further files beside it.
        file: what an error names.
        remedy: what to do about a broken file.

    Raises:
        ModelFileError: it is not a model that can be run.
    """
    # Read when the library loads. Without it, a session looks up its maker's telemetry host after some seconds and keeps a
    # device id under ~/.cache; the library's own switch comes too late.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = operator_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except (
        state.Fail,
        state.InvalidProtobuf,
        state.InvalidGraph,
        state.NotImplemented,
        state.NoSuchFile,
    ) as error:
        raise ModelFileError(f"{file} is not a model that can be run ({error}). {remedy}") from error
