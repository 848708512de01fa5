"""Training, as far as it needs no deep-learning library: configuration, samples, labels, memory, what a run records."""
