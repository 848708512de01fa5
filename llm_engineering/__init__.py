"""The LLM twin: collect what someone has written, turn it into features, train on it, answer with it.

Layers, outermost first: ``bootstrap`` → (``infrastructure``, ``settings``) → ``application`` → ``domain``.
Importing any module here has no effect: nothing is opened, read, downloaded or loaded.
"""

__version__ = "0.1.0"
