"""Measurements that are too long for the tests; each is run as `python -m benchmarks.NAME` from the checkout."""
