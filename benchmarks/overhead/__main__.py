"""`python -m benchmarks.overhead`."""

from benchmarks.overhead.call_times import main

main()
