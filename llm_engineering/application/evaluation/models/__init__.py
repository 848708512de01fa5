"""Evaluation of trained models: base, fine-tuned and the one in production, on the same held-out texts."""
