"""What one application holds: routed experts, single endpoints, and all that they share between calls."""
