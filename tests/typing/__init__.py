"""Code as users write it, which mypy checks and nobody runs: the public names have their real types.

An `ignore` asks for an error: mypy complains of one that it does not need.
"""
