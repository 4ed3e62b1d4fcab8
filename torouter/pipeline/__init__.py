"""The paper's phases 1 and 2: outcomes, soft labels, training."""
