"""What an evaluation is made from, and what of it later parts need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmembed.jobs.evaluate_options import EvaluateOptions

if TYPE_CHECKING:
    from mmembed.jobs.evaluation_data import EvaluationData
    from mmembed.jobs.evaluation_vectors import EvaluationVectors


@dataclass
class Measurement:
    """What an evaluation is made from: the options, the rows, the vectors, and rankings for the paired tests."""

    options: EvaluateOptions
    data: EvaluationData
    vectors: EvaluationVectors
    labels: list[str]
    rankings: dict[str, Any] = field(default_factory=dict)
    before: Measurement | None = None
