"""Outcomes to a router: training data, one training for each kind of router."""
