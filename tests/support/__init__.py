"""Servers, models and helpers that several folders of tests share."""
