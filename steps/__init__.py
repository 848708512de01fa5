"""ZenML steps: thin. Each opens the ports it needs, calls one use case, logs what came of it, and returns a report.

Steps read and write outside stores, so they do not cache; the use cases find out by themselves what is already done.
"""
