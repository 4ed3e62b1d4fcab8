"""The objects that one application holds: routed experts, single endpoints, and their state between calls."""
