"""What the project talks about: documents, chunks, queries, answers. Pydantic and the standard library only."""
