"""`python -m benchmarks.decision`."""

from benchmarks.decision.decision_times import main

main()
