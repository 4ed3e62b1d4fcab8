"""`python -m benchmarks.soak`."""

from benchmarks.soak.storm import main

main()
