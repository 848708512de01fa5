"""Measure retrieval, answers and models. The only package that knows features, training and inference."""
