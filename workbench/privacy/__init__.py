"""What a DP-SGD run costs in privacy, and how loud its noise is.

Certified values (`epsilon`, `compose`, …) come from published accountants; surfaces are fast
previews that know where they hold.
"""

from workbench.privacy.accountant import compose, delta, epsilon
from workbench.privacy.calibration import max_steps, noise_multiplier, noise_scale, steps_within
from workbench.privacy.schedule import batch_schedule, history, noise_schedule
from workbench.privacy.signal import article_nsr, noise_batch_ratio, update_noise_to_signal
from workbench.privacy.surface import epsilon_surface, noise_multiplier_surface
from workbench.privacy.terms import Guarantee, PrivacyTerms, guarantee, refuse_unaccounted
from workbench.privacy.tradeoff import (
    epsilon_delta_ceiling,
    gaussian_ceiling,
    gaussian_mu,
    mechanism_ceiling,
)
from workbench.privacy.tuning import composed_trials, random_trials
from workbench.privacy.written import written_delta, written_epsilon

__all__ = [
    "Guarantee",
    "PrivacyTerms",
    "article_nsr",
    "batch_schedule",
    "compose",
    "composed_trials",
    "delta",
    "epsilon",
    "epsilon_delta_ceiling",
    "epsilon_surface",
    "gaussian_ceiling",
    "gaussian_mu",
    "guarantee",
    "history",
    "max_steps",
    "mechanism_ceiling",
    "noise_batch_ratio",
    "noise_multiplier",
    "noise_multiplier_surface",
    "noise_scale",
    "noise_schedule",
    "random_trials",
    "refuse_unaccounted",
    "steps_within",
    "update_noise_to_signal",
    "written_delta",
    "written_epsilon",
]
