"""Tests of `torouter.evaluation`."""
