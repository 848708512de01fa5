"""Where finished traces are kept."""
