"""Tests of `torouter.endpoints`."""
