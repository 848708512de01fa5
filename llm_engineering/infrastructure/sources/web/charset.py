"""Bytes of a page or feed to text. Servers are often wrong about the character set, so no single word is trusted."""

import codecs
import re

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What pages call by the smaller name is written with the larger set (WHATWG Encoding Standard, section 4.2).
_LARGER = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "shift_jis": "cp932",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "euc_kr": "cp949",
    "iso8859-9": "cp1254",
    "tis-620": "cp874",
}
_DECLARED = re.compile(
    rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]+)|<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]+)""",
    re.I,
)
_ON_THE_WEB = (
    "cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 cp866 cp874 cp932 cp949 big5 euc_jp gb18030 "
    "iso8859_2 iso8859_5 iso8859_7 koi8_r koi8_u"
).split()
"""Sets that browsers know. Without them in mind, a few letters pass for those of old terminals: "³bliche" for "übliche"."""
_HEAD_BYTES = 4_096
_SAMPLE_BYTES = 65_536


def decode(content: bytes, content_type: str = "") -> tuple[str, str]:
    """Return text and the character set it was read with: byte order mark, then the header's word, then the page's own,
    each only if the bytes agree; then UTF-8; then what the bytes look like. Never fails: in the end, unreadable bytes
    become the replacement character.
    """
    for mark, name in _BOMS:
        if content.startswith(mark):
            return content.decode(name, "replace"), name.removesuffix("-sig")
    candidates = [*_declared(content, content_type), "utf-8"]
    for name in candidates:
        try:
            return content.decode(name), name
        except UnicodeDecodeError:
            continue
    name = _detected(content) or candidates[0]
    return content.decode(name, "replace"), name


def _declared(content: bytes, content_type: str) -> list[str]:
    """Python's names of the sets that the header and the page name, where Python knows them."""
    header = re.search(r"charset\s*=\s*[\"']?\s*([\w.:-]+)", content_type, re.I)
    page = _DECLARED.search(content[:_HEAD_BYTES])
    words = [
        header.group(1) if header else "",
        (page.group(1) or page.group(2)).decode("ascii") if page else "",
    ]
    names = []
    for word in words:
        try:
            name = codecs.lookup(word).name
        except LookupError:
            continue
        # A page that was found by reading it as ASCII cannot be UTF-16, whatever it says.
        names.append("utf-8" if name.startswith(("utf-16", "utf-32")) else _LARGER.get(name, name))
    # A single-byte set fits any bytes; where UTF-8 fits too, it is hardly by chance that it does.
    if names and all(name.startswith(("cp125", "iso8859")) for name in names) and not content.isascii():
        names.insert(0, "utf-8")
    return names


def _detected(content: bytes) -> str | None:
    from charset_normalizer import from_bytes

    # Marks and scripts are ASCII and would drown the evidence; only lines with other bytes tell anything.
    telling = b"\n".join(line for line in re.split(rb"[<>\n]", content[:_SAMPLE_BYTES]) if not line.isascii())
    best = from_bytes(telling or content[:_SAMPLE_BYTES], cp_isolation=_ON_THE_WEB).best()
    return best.encoding if best is not None else None
