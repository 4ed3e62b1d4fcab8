"""Times a routing decision, of torouter and of its peers."""
