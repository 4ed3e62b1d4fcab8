"""MetricSpec: title, format and meaning of each metric, for the page, the terminal and the JSON alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """How one metric is named, formatted and explained."""

    key: str
    title: str
    form: str
    """Python format of one number."""
    meaning: str


@dataclass(frozen=True, slots=True)
class MeanStd:
    """Mean and standard deviation of a metric over replicas (seeds or splits).

    Attributes:
        mean: Over the replicas for which the metric is defined; NaN if there are none.
        sd: Sample standard deviation (n - 1); NaN for fewer than two replicas or where one is infinite.
        defined: Number of replicas for which the metric is defined.
        replicas: Number of all replicas.
    """

    mean: float
    sd: float
    defined: int
    replicas: int

    @classmethod
    def of(cls, values: Sequence[float]) -> MeanStd:
        """From one value per replica, NaN where the metric is not defined."""
        known = np.array([value for value in values if not np.isnan(value)])
        mean = float(known.mean()) if len(known) else float("nan")
        sd = float(known.std(ddof=1)) if len(known) > 1 and np.isfinite(known).all() else float("nan")
        return cls(mean, sd, len(known), len(values))

    def text(self, form: str) -> str:
        """Such as "0.708 ± 0.007", or "-" if the metric is not defined."""
        if not self.defined:
            return "-"
        text = form.format(self.mean)
        if self.defined > 1:
            text += " ± " + form.format(self.sd).removeprefix("+")
        return text if self.defined == self.replicas else f"{text} ({self.defined} of {self.replicas})"


QUALITY = (
    MetricSpec("quality", "quality", "{:.3f}", "Mean score of the chosen experts, 0 to 1."),
    MetricSpec(
        "gain",
        "gain",
        "{:+.3f}",
        "Quality minus that of the best single expert, which is picked on the train part.",
    ),
    MetricSpec(
        "gap_closed",
        "gap closed",
        "{:.1%}",
        "(router - best single) / (oracle - best single). The oracle takes the cheapest of each query's best experts; "
        "part of its lead is luck of single answers, which no router can predict.",
    ),
    MetricSpec("seconds", "seconds", "{:.2f}", "Mean recorded seconds of the chosen answers."),
    MetricSpec(
        "tokens_per_second",
        "tokens/s",
        "{:.1f}",
        "Throughput: output tokens of the chosen answers over their seconds.",
    ),
    MetricSpec(
        "nll",
        "NLL",
        "{:.3f}",
        "Mean negative log-likelihood of the reference under the chosen expert, in nats per token.",
    ),
)
COST = (
    MetricSpec("cost", "USD per 1,000", "{:.3f}", "Mean cost of 1,000 queries."),
    MetricSpec("total_cost", "total USD", "{:.3f}", "Cost of all priced test queries."),
    MetricSpec("priced_quality", "quality", "{:.3f}", "Quality on the priced test queries."),
)
SAVED = (
    MetricSpec(
        "saved",
        "saved",
        "{:.1%}",
        "Cost saved against the best single expert. The weight of cost is the highest one before more than 1 % of its "
        "quality is lost (for the zero router: the cheapest mix that keeps 99 %), on queries of the train part that "
        "the router was not trained on.",
    ),
    MetricSpec(
        "kept", "kept", "{:.1%}", "Quality on the test part at that weight, relative to the best single expert's."
    ),
    MetricSpec("price_weight", "weight", "{:.2g}", "The weight that was picked: `price_weight` of a RoutingPolicy."),
    MetricSpec(
        "saved_hindsight",
        "saved, hindsight",
        "{:.1%}",
        "Cost saved while 99 % of the quality is kept, with the weight picked on the test part: an upper bound.",
    ),
    MetricSpec(
        "qnc",
        "QNC",
        "{:.1%}",
        "UniRoute: least cost at which the router is as good as the best single expert, relative to that one's cost.",
    ),
)
CURVE = (
    MetricSpec(
        "aiq",
        "AIQ",
        "{:.3f}",
        "RouterBench: mean height of the non-decreasing hull between the costs of the cheapest and the dearest single "
        "expert.",
    ),
    MetricSpec(
        "aiq_released",
        "AIQ, code",
        "{:.3f}",
        "AIQ as RouterBench's released code computes it: area from cost 0, divided by the dearest expert's cost.",
    ),
    MetricSpec(
        "apgr",
        "APGR",
        "{:.3f}",
        "RouteLLM, for a weak and a strong expert: mean share of their gap that is recovered over all shares of strong "
        "calls; random routing has 0.5.",
    ),
    MetricSpec("cpt_50", "CPT(50%)", "{:.1%}", "RouteLLM: least share of strong calls that recovers half of that gap."),
    MetricSpec("cpt_80", "CPT(80%)", "{:.1%}", "The same for four fifths of the gap."),
)
ROUTER = (
    MetricSpec("milliseconds", "ms, median", "{:.1f}", "Milliseconds of one decision, queries one by one."),
    MetricSpec("milliseconds_95", "ms, 95 %", "{:.1f}", "95th percentile of the same."),
    MetricSpec("queries_per_second", "queries/s", "{:.0f}", "Queries that are scored per second in batches."),
    MetricSpec(
        "ece",
        "ECE",
        "{:.3f}",
        "Expected calibration error in 15 bins over all pairs of query and expert, where scores estimate qualities.",
    ),
    MetricSpec("brier", "Brier", "{:.3f}", "Mean squared difference between score and outcome, over the same pairs."),
)
ALL = (*QUALITY, *COST, *SAVED, *CURVE, *ROUTER)
