"""From a decision to an answer: the order of experts, their health and the deadline."""
