"""Places that notices are sent to."""
