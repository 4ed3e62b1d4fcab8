"""What all benchmarks share: contenders in processes of their own, and their times."""
