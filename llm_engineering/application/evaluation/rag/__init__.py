"""Evaluation of retrieval and answers: questions, metrics, comparisons, calibration, report, gate."""
