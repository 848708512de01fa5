"""Training on this machine: adapters of the training ports."""
