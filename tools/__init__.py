"""The command line behind the poe tasks."""
