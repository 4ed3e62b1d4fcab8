"""The time of a routing decision, ours and the peers'."""
