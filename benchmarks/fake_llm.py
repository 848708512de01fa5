"""A language model that takes a fixed time and almost no processor: ``python -m benchmarks.fake_llm PORT SECONDS``.

It speaks OpenAI's streaming protocol. A reply repeats two sentences of the prompt's sources, each with a citation, so that
the service has something to check; its pieces come evenly, the first after a fifth of the time.
"""

import asyncio
import json
import re
import sys
from typing import Any

_SENTENCE = re.compile(r"[A-Z][^.\n]{40,200}\.")
PIECES = 24


async def _reply(writer: asyncio.StreamWriter, body: dict[str, Any], seconds: float) -> None:
    prompt = "\n".join(message["content"] for message in body["messages"])
    said = [
        f"{sentence} [{number}]" for number, sentence in enumerate(_SENTENCE.findall(prompt)[-2:], start=1)
    ]
    text = " ".join(said) or "There is nothing to say about it [1]."
    size = -(-len(text) // PIECES)
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    start = asyncio.get_running_loop().time()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for number, piece in enumerate(pieces):
        due = start + seconds * (0.2 + 0.8 * number / max(len(pieces) - 1, 1))
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
        writer.write(_event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}))
        await writer.drain()
    writer.write(_event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text) // 4}
    writer.write(_event({"choices": [], "usage": usage}) + _chunk(b"data: [DONE]\n\n") + _chunk(b""))


def _event(event: dict[str, Any]) -> bytes:
    return _chunk(b"data: " + json.dumps(event).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    try:
        while True:  # connections are kept, as model servers keep them
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"(?i)content-length: (\d+)", head)
            if length is None:  # a probe of the service: it is there
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n"
                )
                writer.write(b'{"data":[]}')
            else:
                await _reply(writer, json.loads(await reader.readexactly(int(length.group(1)))), seconds)
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # the asker left
    finally:
        writer.close()


async def main(port: int, seconds: float) -> None:
    server = await asyncio.start_server(
        lambda reader, writer: _answer(reader, writer, seconds), "127.0.0.1", port, backlog=512
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
