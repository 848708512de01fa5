"""Make data sets, fine-tune a model, register it: the training pipeline. Its three packages meet in manifests only."""
