"""Exchanges with servers, replayed."""
