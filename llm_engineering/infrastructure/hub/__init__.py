"""Huggingface's hub."""
