"""Measures what a client costs per call on top of the model."""
