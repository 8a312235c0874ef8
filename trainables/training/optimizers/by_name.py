"""Every optimizer of a trial is built here: those of this project, and any class of torch.optim or of a user's own.

Adam and SGD without options are those of trainables.training.optimizers.plain, which give the same bits as PyTorch's.
Fused kernels are asked for where a class has them. docs/optimizers.md says what each name means.
"""

import copy
import functools
import inspect
import io
from typing import Any

import torch
from torch import nn

from trainables.config import TrialConfig
from trainables.optimizer_settings import read_options
from trainables.runtime.errors import UserError, one_line, quoted
from trainables.runtime.importing import is_import_path
from trainables.runtime.seeds import seeded
from trainables.training.optimizers.combined import CombinedOptimizer
from trainables.training.optimizers.full_batch import GradientDescent, full_batch_lbfgs
from trainables.training.optimizers.groups import LR_RATIO, Group, groups_of
from trainables.training.optimizers.lamb import LAMB
from trainables.training.optimizers.lars import LARS
from trainables.training.optimizers.optimizer import Optimizer, is_schedule_free
from trainables.training.optimizers.options import (
    ADAMW_RATIO,
    OF_ADAMW,
    as_arguments,
    checked,
    class_of,
    takes_weight_decay,
)
from trainables.training.optimizers.plain import SGD, Adam
from trainables.training.optimizers.progressive_lbfgs import ProgressiveLBFGS

PLAIN: dict[str, Any] = {"adam": Adam, "sgd": SGD}
PLAIN_KEYS = {"params", "weight_decay", LR_RATIO}  # of groups, which these take
OF_THE_DEVICE = ("fused", "capturable")  # options of an optimizer that a saved state must not bring along
MATCHED_RATES = "match_rms_adamw"  # Muon's learning rate means what AdamW's means (Liu et al. 2025, arXiv 2502.16982)
RATIO_OF_PYTORCH = 0.015  # AdamW 3e-4 beside Muon 0.02, as in PyTorch's example of Muon and in that of its author


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
            return _built(config, ProgressiveLBFGS, [{"params": list(model.parameters())}], rate, options)
        case "muon":
            return _muon_and_adamw(config, model, options)
    if config.optimizer == "sgd":
        options["momentum"] = config.momentum or 0.0
    groups = _dicts(config, groups_of(config, model))
    if config.layer_adaptation:
        return _built(config, LAMB if config.optimizer == "adam" else LARS, groups, rate, options)
    has_options = config.optimizer_options != "{}" or any(group.keys() - PLAIN_KEYS for group in groups)
    if config.optimizer in PLAIN and not has_options:
        return _built(config, PLAIN[config.optimizer], groups, rate, options)
    return _built(config, class_of(config.optimizer), groups, rate, options)


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
    """Raises UserError where the optimizer of `config` cannot be built, cannot take a step, or does not go on from its
    saved state to the same weights. `model` is used up.
    """
    optimizer = build_optimizer(config, model)
    try:
        _step_on_random_gradients(model, optimizer, 0)
        weights, state = copy.deepcopy(model.state_dict()), through_a_file(optimizer.state_dict())
        _step_on_random_gradients(model, optimizer, 1)
        straight = copy.deepcopy(model.state_dict())
        model.load_state_dict(weights)
        resumed = build_optimizer(config, model)
        load_state(resumed, state)
        _step_on_random_gradients(model, resumed, 1)
    except Exception as error:
        kind = type(error).__name__
        raise UserError(f"`optimizer`: {config.optimizer} cannot train: {kind}: {quoted(error)}") from error
    if not all(torch.equal(straight[name], value) for name, value in model.state_dict().items()):
        raise UserError(
            f"`optimizer`: {config.optimizer} continues differently from its saved state, so trials cannot be resumed; "
            "its state_dict must hold all that a step depends on"
        )


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


def _muon_and_adamw(config: TrialConfig, model: nn.Module, options: dict[str, Any]) -> Optimizer:
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
    parts = [_built(config, torch.optim.Muon, _dicts(config, matrices), rate, options)]
    if rest:
        for group in rest:  # names as in torch.optim.AdamW
            group.options = {name.removeprefix(OF_ADAMW): value for name, value in group.options.items()}
        parts.append(_built(config, torch.optim.AdamW, _dicts(config, rest), rate, second))
    return CombinedOptimizer(parts)


def _dicts(config: TrialConfig, groups: list[Group]) -> list[dict[str, Any]]:
    takes = takes_weight_decay(config)
    return [group.as_dict(takes_weight_decay=takes) for group in groups]


def _built(
    config: TrialConfig, own: Any, groups: list[dict[str, Any]], rate: float, options: dict[str, Any]
) -> Optimizer:
    parameters = inspect.signature(own).parameters
    machine: dict[str, Any] = {}
    device = groups[0]["params"][0].device
    if "fused" in parameters and not is_import_path(config.optimizer):
        machine["fused"] = _has_fused_kernel(own, device.type)
        if "capturable" in parameters:  # without which PyTorch refuses to record a step
            machine["capturable"] = device.type == "cuda"
    if takes_weight_decay(config):
        machine["weight_decay"] = config.weight_decay
    try:
        optimizer: Optimizer = own(groups, lr=rate, **machine, **options)
        if is_schedule_free(optimizer):
            optimizer.train()
        return optimizer
    except Exception as error:
        raise UserError(f"`optimizer`: {config.optimizer} cannot be built: {one_line(error)}") from error


@functools.cache
def _has_fused_kernel(own: Any, device: str) -> bool:
    """Whether PyTorch can do a step of the optimizer in one kernel on that kind of device: Adagrad's came late to GPUs.

    A step is tried, since that is when PyTorch refuses.
    """
    if device == "cpu":
        return True
    number = torch.zeros(1, device=device, requires_grad=True)
    number.grad = torch.zeros(1, device=device)
    try:
        own([number], fused=True).step()
    except RuntimeError as error:
        if "fused" not in str(error):
            raise
        return False
    return True
