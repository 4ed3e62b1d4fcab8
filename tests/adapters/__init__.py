"""Tests that hold for both adapters."""
