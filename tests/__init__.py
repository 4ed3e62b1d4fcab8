"""Tests of torouter and its adapters."""

import os

# Threads of torch and of numpy's BLAS spin against those of other processes on a shared machine, which made small
# products 20 times slower here. Both libraries read this when they are first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
