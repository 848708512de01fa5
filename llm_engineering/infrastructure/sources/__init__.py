"""Where documents come from: one adapter per kind of source."""
