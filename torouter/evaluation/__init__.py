"""What a router is worth: replay against recorded outcomes, metrics, report."""
