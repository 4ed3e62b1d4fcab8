"""Tests of `torouter.dispatch`."""
