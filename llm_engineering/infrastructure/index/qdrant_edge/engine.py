"""The engine's terms: its configuration, its filters and its errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llm_engineering.domain.errors import StoreError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.retrieval import MetadataFilter
from llm_engineering.infrastructure.shared.index_payload import (
    date_range,
    list_alternatives,
    list_facet_conditions,
)

if TYPE_CHECKING:
    from qdrant_edge import EdgeConfig, EdgeShard, Filter

DENSE, SPARSE, TITLE = "dense", "bm25", "title"
"""Names of a point's vectors; the last one only in an index that holds titles."""
SEGMENT_CHUNKS = 30_000
"""Chunks of a segment, while vectors are scanned: segments are searched in parallel, and a small one takes little memory
to build. A graph is better over few large segments."""


def shard_config(dimension: int, *, graph: bool, titles: bool = False) -> "EdgeConfig":
    from qdrant_edge import (
        Distance,
        EdgeConfig,
        EdgeOptimizersConfig,
        EdgeSparseVectorParams,
        EdgeVectorParams,
        HnswIndexConfig,
        Memory,
        Modifier,
        ScalarQuantizationConfig,
        ScalarType,
    )

    # m = 0 builds no graph: vectors are scanned, filtered or not.
    segment_kilobytes = SEGMENT_CHUNKS * dimension * 4 // 1024
    hnsw = HnswIndexConfig(m=16 if graph else 0, ef_construct=100, full_scan_threshold=10_000)
    dense = EdgeVectorParams(
        size=dimension,
        distance=Distance.Cosine,
        memory=Memory.Cold,  # read to rescore a few candidates; the scan is over the int8 copy
        hnsw_config=hnsw,
        quantization_config=ScalarQuantizationConfig(type=ScalarType.Int8, quantile=0.99, always_ram=True),
    )
    return EdgeConfig(
        vectors=dict.fromkeys((DENSE, TITLE) if titles else (DENSE,), dense),
        sparse_vectors={SPARSE: EdgeSparseVectorParams(modifier=Modifier.Idf, memory=Memory.Cached)},
        hnsw_config=hnsw,
        optimizers=None if graph else EdgeOptimizersConfig(max_segment_size=segment_kilobytes),
        wal_enabled=False,
    )


def load(data: Path, config: "EdgeConfig | None" = None) -> "EdgeShard":
    from qdrant_edge import EdgeShard

    with translate_errors(f"opening {data}"):
        return EdgeShard.load(str(data), config)


def edge_filter(filter: MetadataFilter) -> "Filter | None":
    from qdrant_edge import FieldCondition, MatchAny, RangeDateTime, RangeFloat
    from qdrant_edge import Filter as EdgeFilter

    conditions = [
        FieldCondition(field, match=MatchAny(list(values))) for field, values in list_alternatives(filter)
    ]
    if between := date_range(filter):
        conditions.append(FieldCondition("published_at", range=RangeDateTime(**between)))
    for wanted in list_facet_conditions(filter):
        if wanted.any_of:
            conditions.append(FieldCondition(wanted.key, match=MatchAny(list(wanted.any_of))))
        if wanted.range:
            moments = any(isinstance(end, str) for end in wanted.range.values())
            ends = RangeDateTime(**wanted.range) if moments else RangeFloat(**wanted.range)
            conditions.append(FieldCondition(wanted.key, range=ends))
    return EdgeFilter(must=list(conditions)) if conditions else None


@contextmanager
def translate_errors(doing: str) -> Iterator[None]:
    """Turn failures of the engine and of the file system into StoreError."""
    try:
        yield
    except Exception as error:
        # The engine raises bare `Exception`; anything more specific is not its own.
        if not isinstance(error, OSError) and type(error) is not Exception:
            raise
        raise StoreError(
            f"The index failed in {doing}: {error}. What was published before is untouched. If this repeats, check the "
            f"free space of the disk; the index can always be rebuilt with: {POE} run-feature-engineering-pipeline"
        ) from error
