"""The kinds of routers, listed once: what can be trained, and which module loads the checkpoints of each.

The command line imports this for every command, so it imports nothing but `typing`.
"""

from typing import Literal, get_args

TrainedKind = Literal["bert", "mlp", "knn", "fast"]

TRAINED_KINDS: tuple[TrainedKind, ...] = get_args(TrainedKind)
"""Kinds that `torouter train` makes."""

MODULES = {kind: f"torouter.routers.{kind}" for kind in TRAINED_KINDS} | dict.fromkeys(
    ("random", "best-single", "oracle"), "torouter.routers.baselines"
)
"""The module of each kind that comes with torouter."""
