"""Texts to scores: the contract of every router, its kinds, and its checkpoints."""
