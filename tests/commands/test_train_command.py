"""The flags of `torouter train` against the fields of `TrainingArguments`: neither may be forgotten in the other."""

from __future__ import annotations

import argparse
from dataclasses import fields
from types import NoneType
from typing import get_args, get_type_hints

import pytest

from torouter.commands import train
from torouter.training.arguments import TrainingArguments

PYTHON_ONLY: set[str] = set()
"""Fields that have no flag on purpose."""


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    train.configure(parser)
    return parser


def training_flags(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The flags of the training group, by the name under which their values arrive."""
    (group,) = (group for group in parser._action_groups if group.title == "training")
    return {action.dest: action for action in group._group_actions}


def test_every_flag_of_training_is_a_field_and_every_field_has_a_flag(parser: argparse.ArgumentParser) -> None:
    names = {field.name for field in fields(TrainingArguments)}

    assert set(training_flags(parser)) == names - PYTHON_ONLY
    assert names >= PYTHON_ONLY


def test_every_flag_of_training_reaches_the_training(parser: argparse.ArgumentParser) -> None:
    arguments = parser.parse_args(["table.csv", "--out", "router"])

    assert set(arguments.training_fields) == set(training_flags(parser))


def test_a_flag_that_is_left_out_leaves_the_default_to_the_training(parser: argparse.ArgumentParser) -> None:
    arguments = parser.parse_args(["table.csv", "--out", "router"])

    assert not set(vars(arguments)) & set(training_flags(parser))


def test_a_flag_offers_the_choices_of_its_field(parser: argparse.ArgumentParser) -> None:
    types = get_type_hints(TrainingArguments)
    offered = {name: action.choices for name, action in training_flags(parser).items() if action.choices}

    assert set(offered) == {"router", "objective", "label_form", "weights"}
    for name, choices in offered.items():
        assert tuple(choices) == get_args(types[name])


def test_a_flag_reads_its_value_as_the_type_of_its_field(parser: argparse.ArgumentParser) -> None:
    types = get_type_hints(TrainingArguments)

    for name, action in training_flags(parser).items():
        if action.type is not None:
            assert {action.type} == {*(get_args(types[name]) or (types[name],))} - {NoneType}
