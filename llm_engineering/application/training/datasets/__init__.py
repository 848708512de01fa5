"""What a data set must pass before a model is trained on it: gates, splits, decontamination, statistics, its folder.

Pure functions over samples. A gate drops, and says why; nothing disappears: what was dropped stands beside the data set.
"""
