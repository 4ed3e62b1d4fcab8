"""`python -m benchmarks.scale`."""

from benchmarks.scale.growth import main

main()
