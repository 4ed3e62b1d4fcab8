"""The demo: real experts on this machine, a router trained on their outcomes, and a routed chain."""
