"""A cross-encoder small enough to be written here, of real ONNX operators: its score is the cosine of two bags of words.

The file is protobuf, written by hand after the field numbers of ``onnx.proto`` (message ``ModelProto`` and below): the
``onnx`` package, which could do it, is needed for nothing else.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

FLOAT, INT64 = 1, 7
"""``TensorProto.DataType``"""
OPSET = 17


def cross_encoder(
    file: Path,
    vocabulary: int,
    silent: Sequence[int] = (),
    *,
    scores: int = 1,
    inputs: Sequence[str] = ("input_ids", "attention_mask", "token_type_ids"),
) -> None:
    """Write a model that gives each pair the cosine of the summed vectors of its two texts, shape (n, scores).

    Args:
        silent: ids whose vector is zero: special tokens.
        inputs: names of the model's inputs; the first three are the usual ones.
    """
    table = np.random.default_rng(0).standard_normal((vocabulary, 32)).astype(np.float32)
    table[list(silent)] = 0
    constants = {
        "table": table,
        "one": np.array(1, dtype=np.float32),
        "tiny": np.array(1e-9, dtype=np.float32),
        "last": np.array([2], dtype=np.int64),
        "tokens": np.array([1], dtype=np.int64),
        "copies": np.ones((1, scores), dtype=np.float32),
    }
    ids, mask, types = inputs[:3]
    nodes = [
        _node("Gather", ["table", ids], "words"),
        _node("Cast", [mask], "real", to=FLOAT),
        _node("Cast", [types], "second", to=FLOAT),
        _node("Sub", ["one", "second"], "first"),
        *_summed("first", "question"),
        *_summed("second", "passage"),
        _node("Mul", ["question", "passage"], "products"),
        _node("ReduceSum", ["products", "tokens"], "dot", keepdims=1),
        *_length("question"),
        *_length("passage"),
        _node("Mul", ["question_length", "passage_length"], "lengths"),
        _node("Add", ["lengths", "tiny"], "positive"),
        _node("Div", ["dot", "positive"], "cosine"),
        _node("MatMul", ["cosine", "copies"], "logits"),
    ]
    graph = b"".join(
        [
            *(_bytes(1, node) for node in nodes),
            _bytes(2, b"cross_encoder"),
            *(_bytes(5, _tensor(name, value)) for name, value in constants.items()),
            *(_bytes(11, _value(name, INT64, ("batch", "tokens"))) for name in inputs),
            _bytes(12, _value("logits", FLOAT, ("batch", scores))),
        ]
    )
    opset = _bytes(1, b"") + _number(2, OPSET)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_number(1, 8) + _bytes(7, graph) + _bytes(8, opset))


def _summed(which: str, result: str) -> list[bytes]:
    """The sum of the vectors of one of the two texts: shape (n, 32)."""
    return [
        _node("Mul", [which, "real"], f"{which}_real"),
        _node("Unsqueeze", [f"{which}_real", "last"], f"{which}_column"),
        _node("Mul", ["words", f"{which}_column"], f"{which}_words"),
        _node("ReduceSum", [f"{which}_words", "tokens"], result, keepdims=0),
    ]


def _length(of: str) -> list[bytes]:
    return [
        _node("Mul", [of, of], f"{of}_squares"),
        _node("ReduceSum", [f"{of}_squares", "tokens"], f"{of}_square", keepdims=1),
        _node("Sqrt", [f"{of}_square"], f"{of}_length"),
    ]


def _node(kind: str, inputs: Sequence[str], output: str, **attributes: int) -> bytes:
    written = [_bytes(1, name.encode()) for name in inputs]
    written += [_bytes(2, output.encode()), _bytes(4, kind.encode())]
    written += [
        _bytes(5, _bytes(1, name.encode()) + _number(3, value) + _number(20, 2))  # type INT
        for name, value in attributes.items()
    ]
    return b"".join(written)


def _tensor(name: str, value: np.ndarray) -> bytes:
    kind = FLOAT if value.dtype == np.float32 else INT64
    shape = b"".join(_number(1, size) for size in value.shape)
    return shape + _number(2, kind) + _bytes(8, name.encode()) + _bytes(9, value.tobytes())


def _value(name: str, kind: int, shape: Sequence[str | int]) -> bytes:
    sizes = (_number(1, size) if isinstance(size, int) else _bytes(2, size.encode()) for size in shape)
    tensor = _number(1, kind) + _bytes(2, b"".join(_bytes(1, size) for size in sizes))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
