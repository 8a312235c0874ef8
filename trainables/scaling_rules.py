"""Rules that carry a setting from batch size B to k B, each as a function of a trial's configuration.

    keep         nothing changes
    square_root  learning rate times sqrt(k) (Krizhevsky 2014, arXiv 1404.5997)
    linear       learning rate times k (Goyal et al. 2017, arXiv 1706.02677)
    adam_sde     learning rate times sqrt(k), 1 - beta1 and 1 - beta2 times k, epsilon over sqrt(k); for RMSprop the
                 same with its alpha in place of the betas (Malladi et al. 2022, arXiv 2205.10287)
    half_life    learning rate times sqrt(k), beta2 to the power k: its half-life in examples, B log(1/2) / log(beta2),
                 stays the same (Marek et al. 2025, arXiv 2507.07101)
    timescale    weight decay times k: the timescale of AdamW, B / (learning rate * weight decay * D) passes over the
                 D examples, stays the same (Bergsma et al. 2025, arXiv 2505.13738)
    ema          learning rate times k (sgd) or sqrt(k) (others), and the decay of an average of the weights to the
                 power k: its half-life in examples stays the same (Busbridge et al. 2023, arXiv 2307.13813)

The rule of Marek et al. is about beta2 alone. Here the learning rate follows the root, so that half_life and
square_root differ in beta2 alone.

Traps: adam_sde has no setting where k (1 - beta) is above 1, with the usual beta1 = 0.9 from k = 11 on. Learning rates
in `parameter_groups` follow a rule only where they are multiples, such as 10x.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainables.config import TrialConfig
from trainables.optimizer_settings import LINE_SEARCH_OPTIMIZERS, canonical_options, read_options
from trainables.runtime.errors import UserError

DIGITS = 12  # of scaled values, so that they are the same on every processor
BETAS = (0.9, 0.999)  # defaults of torch.optim
EPSILON = 1e-8
ALPHA = 0.99  # of RMSprop
OF_ADAM = ("adam", "adamw")

Changes = dict[str, Any] | None  # fields of a configuration; None: the rule has no setting


def sde_beta(beta: float, k: float) -> float:
    """1 - k (1 - beta), below 0 where the rule has no setting."""
    return round(1 - k * (1 - beta), DIGITS) + 0.0  # no negative zero


def half_life_beta(beta: float, k: float) -> float:
    """beta^k, the decay per step whose half-life in examples is that of `beta` at 1/k of the batch size."""
    return _rounded(beta**k)


@dataclass(frozen=True)
class ScalingRule:
    """A rule. `words`: its name in a sentence; `needs`: what a setting must have for it to apply."""

    name: str
    words: str
    needs: str
    applies: Callable[[TrialConfig], bool]
    changes: Callable[[TrialConfig, float], Changes]

    def carried(self, config: TrialConfig, batch_size: int) -> TrialConfig | None:
        """`config` carried to `batch_size`; None where the rule has no setting there.

        Raises UserError for a `batch_size` beyond the training set, and for options that are not numbers.
        """
        try:
            changes = self.changes(config, batch_size / config.batch_size) if self.applies(config) else None
        except UserError:
            raise
        except (TypeError, ValueError) as error:  # of a damaged table
            raise UserError(
                f"`optimizer_options` must hold numbers that the rule {self.words} can scale, got "
                f"{config.optimizer_options}"
            ) from error
        if changes is None:
            return None
        return dataclasses.replace(config, batch_size=batch_size, **changes)


def _keep(config: TrialConfig, k: float) -> Changes:
    return {}


def _square_root(config: TrialConfig, k: float) -> Changes:
    return {"learning_rate": _rounded(config.learning_rate * k**0.5)}


def _linear(config: TrialConfig, k: float) -> Changes:
    return {"learning_rate": _rounded(config.learning_rate * k)}


def _adam_sde(config: TrialConfig, k: float) -> Changes:
    given = read_options(config.optimizer_options)
    options: dict[str, Any] = {"eps": _rounded(given.get("eps", EPSILON) / k**0.5)}
    if config.optimizer == "rmsprop":
        options["alpha"] = sde_beta(given.get("alpha", ALPHA), k)
        least = options["alpha"]
    else:
        first, second = given.get("betas", BETAS)
        options["betas"] = [sde_beta(first, k), sde_beta(second, k)]
        least = min(options["betas"])
    return _with_options(config, k, **options) if least >= 0 else None


def _half_life(config: TrialConfig, k: float) -> Changes:
    first, second = read_options(config.optimizer_options).get("betas", BETAS)
    return _with_options(config, k, betas=[first, half_life_beta(second, k)])


def _timescale(config: TrialConfig, k: float) -> Changes:
    return {"weight_decay": _rounded(config.weight_decay * k)}


def _ema(config: TrialConfig, k: float) -> Changes:
    scaled = (_linear if config.optimizer == "sgd" else _square_root)(config, k)
    assert scaled is not None
    assert config.average_decay is not None
    return {**scaled, "average_decay": half_life_beta(config.average_decay, k)}


def _with_options(config: TrialConfig, k: float, **options: Any) -> dict[str, Any]:
    changed = canonical_options({**read_options(config.optimizer_options), **options})
    return {"learning_rate": _rounded(config.learning_rate * k**0.5), "optimizer_options": changed}


def _has_rate(config: TrialConfig) -> bool:
    return config.optimizer not in LINE_SEARCH_OPTIMIZERS


def _has_decoupled_decay(config: TrialConfig) -> bool:
    own = read_options(config.optimizer_options).get("decoupled_weight_decay")
    return config.weight_decay > 0 and (config.optimizer == "adamw" or (config.optimizer == "adam" and bool(own)))


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


SCALING_RULES = (
    ScalingRule("keep", "keep", "an optimizer with a learning rate", _has_rate, _keep),
    ScalingRule("square_root", "square root", "an optimizer with a learning rate", _has_rate, _square_root),
    ScalingRule("linear", "linear", "an optimizer with a learning rate", _has_rate, _linear),
    ScalingRule(
        "adam_sde",
        "square root with betas and epsilon",
        "adam, adamw or rmsprop",
        lambda config: config.optimizer in (*OF_ADAM, "rmsprop") and not config.layer_adaptation,
        _adam_sde,
    ),
    ScalingRule(
        "half_life",
        "square root with the half-life of beta2",
        "adam or adamw",
        lambda config: config.optimizer in OF_ADAM and not config.layer_adaptation,
        _half_life,
    ),
    ScalingRule("timescale", "AdamW timescale", "adamw with weight decay", _has_decoupled_decay, _timescale),
    ScalingRule(
        "ema", "rate and EMA decay", "average=ema", lambda config: config.average == "ema" and _has_rate(config), _ema
    ),
)  # fmt: skip
