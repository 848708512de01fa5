"""Rerankers: late interaction over the bundled embedder's token vectors, and cross-encoders as ONNX."""
