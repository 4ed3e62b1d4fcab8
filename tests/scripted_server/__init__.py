"""Tests of the scripted TGI server itself."""
