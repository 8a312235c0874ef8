"""Every optimizer of a trial is built here: those of this project, and any class of torch.optim or of a user's own.

Adam and SGD without options are those of trainables.training.optimizers.plain, which give the same bits as PyTorch's.
docs/optimizers.md says what each name means.
"""

import copy
import io
from typing import Any

import torch
from torch import nn

from trainables.config import TrialConfig
from trainables.optimizer_settings import read_options
from trainables.runtime.errors import UserError, quoted
from trainables.runtime.importing import is_import_path
from trainables.runtime.seeds import seeded
from trainables.training.optimizers.built import as_dicts, built
from trainables.training.optimizers.combined import CombinedOptimizer
from trainables.training.optimizers.full_batch import GradientDescent, full_batch_lbfgs
from trainables.training.optimizers.groups import LR_RATIO, groups_of
from trainables.training.optimizers.lamb import LAMB
from trainables.training.optimizers.lars import LARS
from trainables.training.optimizers.muon import muon_and_adamw
from trainables.training.optimizers.optimizer import Optimizer
from trainables.training.optimizers.options import as_arguments, checked, class_of
from trainables.training.optimizers.plain import SGD, Adam
from trainables.training.optimizers.progressive_lbfgs import ProgressiveLBFGS

PLAIN: dict[str, Any] = {"adam": Adam, "sgd": SGD}
PLAIN_KEYS = {"params", "weight_decay", LR_RATIO}  # of groups, which these take
STEPS_TO_CHANGE = 100  # an optimizer may warm up from 0, or sum gradients first, for fewer steps
STEPS_AFTER_LOADING = 12  # of the user's own optimizer, which may do something every few steps
OF_THE_DEVICE = ("fused", "capturable")  # options of an optimizer that a saved state must not bring along


def build_optimizer(config: TrialConfig, model: nn.Module) -> Optimizer:
    """The optimizer of `config` for all parameters of `model`. Raises UserError for options that it does not take."""
    config = checked(config).canonical()
    rate, options = config.learning_rate, as_arguments(read_options(config.optimizer_options))
    match config.optimizer:
        case "gradient_descent":
            return GradientDescent(model.parameters(), rate)
        case "lbfgs":
            return full_batch_lbfgs(model.parameters(), rate)
        case "progressive_lbfgs":
            return built(config, ProgressiveLBFGS, [{"params": list(model.parameters())}], rate, options)
        case "muon":
            return muon_and_adamw(config, model, options)
    if config.optimizer == "sgd":
        options["momentum"] = config.momentum or 0.0
    groups = as_dicts(config, groups_of(config, model))
    if config.layer_adaptation:
        return built(config, LAMB if config.optimizer == "adam" else LARS, groups, rate, options)
    has_options = config.optimizer_options != "{}" or any(group.keys() - PLAIN_KEYS for group in groups)
    if config.optimizer in PLAIN and not has_options:
        return built(config, PLAIN[config.optimizer], groups, rate, options)
    return built(config, class_of(config.optimizer), groups, rate, options)


def load_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Takes up a saved `state`, by the kernels for the device that the optimizer is on now."""
    if isinstance(optimizer, CombinedOptimizer):
        for part, own in zip(optimizer.parts, state["parts"], strict=True):
            load_state(part, own)
        return
    if "param_groups" in state:  # which an optimizer of the user's own need not have
        groups = [
            saved | {name: group[name] for name in OF_THE_DEVICE if name in group}
            for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True)
        ]
        state = {**state, "param_groups": groups}
    optimizer.load_state_dict(state)


def check_optimizer(config: TrialConfig, model: nn.Module) -> None:
    """Raises UserError where the optimizer of `config` cannot be built, cannot take a step, does not go on from its
    saved state to the same weights, or changes no parameter in STEPS_TO_CHANGE steps. `model` is used up.
    """
    optimizer = build_optimizer(config, model)
    groups = getattr(optimizer, "param_groups", None)
    if not isinstance(groups, list) or not all(isinstance(group, dict) and "lr" in group for group in groups):
        raise UserError(
            f"`optimizer`: {config.optimizer} must have `param_groups`, a list of dictionaries with their learning "
            "rate as `lr`, which the schedule sets"
        )
    start = [parameter.detach().clone() for parameter in model.parameters()]
    seeds = range(1, STEPS_AFTER_LOADING + 1 if is_import_path(config.optimizer) else 2)
    try:
        _step_on_random_gradients(model, optimizer, 0)
        weights, state = copy.deepcopy(model.state_dict()), through_a_file(optimizer.state_dict())
        for seed in seeds:
            _step_on_random_gradients(model, optimizer, seed)
        straight = copy.deepcopy(model.state_dict())
        model.load_state_dict(weights)
        resumed = build_optimizer(config, model)
        load_state(resumed, state)
        for seed in seeds:
            _step_on_random_gradients(model, resumed, seed)
    except Exception as error:
        kind = type(error).__name__
        raise UserError(f"`optimizer`: {config.optimizer} cannot train: {kind}: {quoted(error)}") from error
    if not all(torch.equal(straight[name], value) for name, value in model.state_dict().items()):
        raise UserError(
            f"`optimizer`: {config.optimizer} continues differently from its saved state, so trials cannot be resumed; "
            "its state_dict must hold all that a step depends on"
        )
    steps = 1 + len(seeds)
    while all(map(torch.equal, start, model.parameters())):
        if steps == STEPS_TO_CHANGE:
            raise UserError(
                f"`optimizer`: {config.optimizer} must change parameters, got none changed after {steps} steps at "
                f"learning rate {config.learning_rate:g}"
            )
        _step_on_random_gradients(model, resumed, steps)
        steps += 1


def _step_on_random_gradients(model: nn.Module, optimizer: Optimizer, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    with seeded(seed, "optimizer"):
        torch.manual_seed(seed)  # of an optimizer that draws
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=draws).to(parameter)
        optimizer.step()
        optimizer.zero_grad()


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint is loaded: without executing anything."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]


def scale_velocity(optimizer: Optimizer, factor: float) -> None:
    """Multiplies every momentum buffer: an SGD velocity that has absorbed the learning rate of its time."""
    buffers = [
        state["momentum_buffer"] for state in optimizer.state.values() if state.get("momentum_buffer") is not None
    ]
    if buffers:
        torch._foreach_mul_(buffers, factor)
