"""Tests of the text-generation extra, which has an environment of its own: `make test-text-generation`."""
