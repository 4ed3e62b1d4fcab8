"""Tests of `llamaindex_torouter`."""
