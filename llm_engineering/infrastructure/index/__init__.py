"""Vector indexes: Qdrant in this process, or on a server."""
