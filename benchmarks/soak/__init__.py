"""Thousands of calls over experts that crash, stall and return."""
