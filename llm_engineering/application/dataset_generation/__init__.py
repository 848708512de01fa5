"""Data sets to train on, made from an author's cleaned documents.

Passages of the documents become instruction and answer (the answer is the author's own text), and preference triples
(``chosen`` the author's text, ``rejected`` a model's). Instructions are made by rule, which needs no model, or by a model.
"""
