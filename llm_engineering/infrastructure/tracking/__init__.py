"""Where a training run is shown: lines in a file, TensorBoard, Comet."""
