"""The only door to infrastructure: settings in, ready ports out, closed on exit.

Each module puts one thing together; importing them loads no adapter.
"""
