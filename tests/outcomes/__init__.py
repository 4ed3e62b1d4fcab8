"""Tests of `torouter.outcomes`."""
