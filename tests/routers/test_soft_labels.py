"""Soft labels: the forms that the paper leaves open."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torouter.errors import ConfigurationError
from torouter.routers.soft_labels import soft_labels

SEVEN = np.linspace(0.70, 0.88, 7)[None]


def test_multiplying_by_ten_sharpens_and_dividing_by_ten_is_almost_uniform():
    sharp, flat = soft_labels(SEVEN), soft_labels(SEVEN, form="divide")

    assert sharp[0, -1] == pytest.approx(0.2954, abs=1e-4)  # e^1.8 over the sum of e^0, e^0.3, ... e^1.8
    assert sharp[0, 0] == pytest.approx(0.0488, abs=1e-4)
    assert flat[0, -1] == pytest.approx(0.1442, abs=0.0001)


def test_a_label_is_the_softmax_of_its_scores():
    assert soft_labels([[0.0, np.log(3) / 10]]) == pytest.approx(np.array([[0.25, 0.75]]))
    assert soft_labels([[0.0, 1.0]], form="divide", temperature=1.0)[0, 1] == pytest.approx(1 / (1 + np.exp(-1)))


def test_hard_labels_share_the_whole_among_the_best():
    assert soft_labels([[1.0, 0.5, 1.0], [0, 0, 1]], form="hard").tolist() == [[0.5, 0, 0.5], [0, 0, 1]]


@given(
    scores=st.lists(st.floats(0, 1), min_size=1, max_size=8),
    temperature=st.floats(1e-3, 1e4),
    form=st.sampled_from(["multiply", "divide", "hard"]),
)
def test_labels_sum_to_one_and_keep_the_order_of_the_scores(scores, temperature, form):
    labels = soft_labels([scores], form=form, temperature=temperature)[0]

    assert labels.sum() == pytest.approx(1, abs=1e-5)
    assert labels.argmax() == 0 or labels[np.argmax(scores)] == labels.max()


@pytest.mark.parametrize(("form", "temperature"), [("times", 10.0), ("multiply", 0.0), ("divide", float("nan"))])
def test_an_unknown_form_or_a_temperature_that_is_not_above_zero_is_refused(form, temperature):
    with pytest.raises(ConfigurationError, match=r"form|temperature"):
        soft_labels(SEVEN, form=form, temperature=temperature)
