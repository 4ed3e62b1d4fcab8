"""Measures what grows with experts, text length, callers, remembered queries and outcome rows."""
