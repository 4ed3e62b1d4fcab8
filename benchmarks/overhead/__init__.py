"""What a client costs per call beyond the model."""
