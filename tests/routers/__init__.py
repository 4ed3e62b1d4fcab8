"""Tests of `torouter.routers`."""
