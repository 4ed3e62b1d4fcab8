"""Tests of `langchain_torouter`."""
