"""The inference service over HTTP: one adapter in several files."""
