"""Collect documents, clean, chunk and index them: the feature pipeline."""
