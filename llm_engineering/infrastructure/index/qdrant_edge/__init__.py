"""The vector index inside this process: Qdrant's engine over a folder, in generations that switch atomically.

A writer copies the published generation, changes the copy and publishes it with one rename, so readers in any process
go on with what they hold, and see the new one at their next search. The engine's write-ahead log is off: a draft that
was not published is thrown away whole, and without the log's lock several processes can open one generation.
"""

from llm_engineering.infrastructure.index.qdrant_edge.index import QdrantEdgeIndex

__all__ = ["QdrantEdgeIndex"]
