"""From a query to the experts' scores, and from scores to a decision."""
