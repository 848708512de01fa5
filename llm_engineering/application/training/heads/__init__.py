"""Heads: labels in, a calibrated linear classifier over embeddings out."""
