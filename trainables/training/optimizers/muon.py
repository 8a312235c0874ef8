"""Muon for the hidden matrices and AdamW for all other parameters, as one optimizer.

Both are PyTorch's own. trainables.training.optimizers.groups says which parameters are matrices, and `combined` beside
it makes the step of the two.
"""

from typing import Any

import torch
from torch import nn

from trainables.config import TrialConfig
from trainables.runtime.errors import UserError
from trainables.training.optimizers.built import as_dicts, built
from trainables.training.optimizers.combined import CombinedOptimizer
from trainables.training.optimizers.groups import groups_of
from trainables.training.optimizers.optimizer import Optimizer
from trainables.training.optimizers.options import ADAMW_RATIO, OF_ADAMW

MATCHED_RATES = "match_rms_adamw"  # Muon's learning rate means what AdamW's means (Liu et al. 2025, arXiv 2502.16982)
RATIO_OF_PYTORCH = 0.015  # AdamW 3e-4 beside Muon 0.02, as in PyTorch's example of Muon and in that of its author


def muon_and_adamw(config: TrialConfig, model: nn.Module, options: dict[str, Any]) -> Optimizer:
    ratio = options.pop(ADAMW_RATIO, 1.0 if options.get("adjust_lr_fn") == MATCHED_RATES else RATIO_OF_PYTORCH)
    second = {name: options.pop(name) for name in list(options) if name.startswith(OF_ADAMW)}
    second = {name.removeprefix(OF_ADAMW): value for name, value in second.items()}
    groups = groups_of(config, model, ratio)
    matrices, rest = ([one for one in groups if one.by_adamw is by_adamw] for by_adamw in (False, True))
    if not matrices:
        raise UserError(f"`optimizer` muon needs a hidden matrix, and {config.model} has none; use adamw")
    rate = config.learning_rate
    for group in groups:
        misplaced = [name for name in group.options if name.startswith(OF_ADAMW) != group.by_adamw]
        if misplaced:
            own = f"AdamW's, which begin with {OF_ADAMW}" if group.by_adamw else "Muon's"
            raise UserError(f"`parameter_groups`: options of this group must be {own}, got {misplaced[0]}")
    parts = [built(config, torch.optim.Muon, as_dicts(config, matrices), rate, options)]
    if rest:
        for group in rest:  # names as in torch.optim.AdamW
            group.options = {name.removeprefix(OF_ADAMW): value for name, value in group.options.items()}
        parts.append(built(config, torch.optim.AdamW, as_dicts(config, rest), rate, second))
    return CombinedOptimizer(parts)
