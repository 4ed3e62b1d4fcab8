"""Tests of `torouter.training`."""
