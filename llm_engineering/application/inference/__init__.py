"""Retrieve passages and answer from them, cited: the inference pipeline."""
