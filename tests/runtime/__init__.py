"""Tests of `torouter.runtime`."""
