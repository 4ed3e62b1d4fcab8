"""What the benchmarks share: contenders in processes of their own, and how they are timed."""
