"""Model files and templates that are none, or more than that."""

import struct
from pathlib import Path

import pytest
from jinja2 import TemplateError

from llm_engineering.application.llm.chat_templates import ChatTemplate
from llm_engineering.application.ports import Message
from llm_engineering.domain.errors import ModelFileError
from llm_engineering.infrastructure.llms.llama_cpp import LlamaCppModel

HUGE = 1 << 60


def gguf(tensors: int = 0, keys: int = 1, key_length: int = 3, rest: bytes = b"a.b") -> bytes:
    """The head of a GGUF file, with what it says of itself."""
    return b"GGUF" + struct.pack("<IQQQ", 3, tensors, keys, key_length) + rest


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"\x80\x04\x95pickle",
        gguf(tensors=HUGE),
        gguf(keys=HUGE),
        gguf(key_length=HUGE),
        gguf(key_length=1 << 31),
        gguf(rest=b"a.b" + struct.pack("<IIQ", 9, 8, HUGE)),
        gguf(rest=b"a.b" + struct.pack("<I", 99)),
        gguf(rest=b"a.b" + struct.pack("<IIQ", 9, 9, 1) * 1000),
    ],
)
async def test_a_file_that_is_no_model_is_refused_and_the_process_lives(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    model = LlamaCppModel(file, context_tokens=512, threads=1)
    with pytest.raises(ModelFileError):
        async for _ in model.stream([Message("user", "Hello")]):
            pass
    await model.close()


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__ }}",
        "{{ cycler.__init__.__globals__.os.system('id') }}",
        "{% for n in range(10**9) %}x{% endfor %}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_cannot_leave_its_place(source: str) -> None:
    template = ChatTemplate(name="x", version=1, source=source, bos="", eos="", stop="")
    with pytest.raises((TemplateError, OverflowError, TypeError)):
        template.render([Message("user", "Hello")])
