"""Texts to features: encoders that serve without torch, and how they are exported."""
