"""From scores to a decision: policy, requirements of a request, calibration."""
