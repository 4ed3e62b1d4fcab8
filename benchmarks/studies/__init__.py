"""Studies on recorded outcome tables."""
