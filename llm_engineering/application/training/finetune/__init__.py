"""Fine-tuning without deep-learning libraries: configuration, samples, labels, memory estimate, records."""
