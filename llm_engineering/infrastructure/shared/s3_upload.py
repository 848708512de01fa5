"""Put files into S3 that are not there yet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loguru import logger


def upload_missing(
    client: Any,
    bucket: str,
    folder: str,
    files: Mapping[str, Path | bytes],
    what: str,
    kms_key: str | None = None,
) -> None:
    """Upload what is not there in the same size; the folder's name must tell its content.

    Args:
        client: boto3's of S3.
        folder: a key that ends in ``/``.
        what: how the log calls it.
        kms_key: for what is written; None: the bucket's own.
    """
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder)
    there = {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", ())}
    missing = {name: content for name, content in files.items() if there.get(folder + name) != _size(content)}
    if missing:
        total = sum(map(_size, missing.values()))
        logger.info("Uploading {}: {} file(s), {:.1f} MB.", what, len(missing), total / 1e6)
    extra = {} if kms_key is None else {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key}
    for name, content in missing.items():
        if isinstance(content, bytes):
            client.put_object(Bucket=bucket, Key=folder + name, Body=content, **extra)
        else:
            client.upload_file(str(content), bucket, folder + name, ExtraArgs=extra)


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size
