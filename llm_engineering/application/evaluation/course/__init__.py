"""A course assistant: how good its answers are, whether they are fair to every professor, and which assistant is to serve."""
