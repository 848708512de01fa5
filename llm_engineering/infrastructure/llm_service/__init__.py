"""An OpenAI-compatible service over a local model."""
