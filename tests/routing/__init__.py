"""Tests of `torouter.routing`."""
