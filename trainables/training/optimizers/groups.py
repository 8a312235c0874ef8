"""Which parameters of a network an optimizer treats alike: the groups that it is built with.

Without a configuration's `parameter_groups` all parameters are alike, with one exception: decoupled weight decay
(AdamW, Muon, Adafactor) leaves out biases, the scales and shifts of norms, and whatever else has fewer than two
dimensions. Loshchilov and Hutter 2019 (arXiv 1711.05101) decay all; leaving these out is the custom since BERT. An L2
term acts on every parameter, as in torch.optim. Of several patterns that match a name the first counts.

Muon takes the hidden matrices: parameters of two dimensions, except embeddings and the head, which
is the last module with such a parameter. Kernels of convolutions have four dimensions, and go to AdamW with the rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from trainables.config import TrialConfig
from trainables.optimizer_settings import ParameterGroup, read_parameter_groups, resolved
from trainables.runtime.errors import UserError
from trainables.runtime.importing import is_import_path
from trainables.training.optimizers.options import as_arguments, is_decoupled, takes_weight_decay

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
LR_RATIO = "lr_ratio"  # of a group's learning rate to that of the schedule; 1 where it is not there
NAMES_SHOWN = 6


@dataclass
class Group:
    """Parameters that are updated alike. `weight_decay` and `lr_ratio` are final, `options` differ from the rest's."""

    weight_decay: float
    lr_ratio: float
    options: dict[str, Any]
    by_adamw: bool
    params: list[Tensor] = field(default_factory=list)

    def as_dict(self, *, takes_weight_decay: bool) -> dict[str, Any]:
        """As classes of torch.optim take it."""
        found: dict[str, Any] = {"params": self.params, **as_arguments(self.options)}
        if takes_weight_decay:
            found["weight_decay"] = self.weight_decay
        if self.lr_ratio != 1:
            found[LR_RATIO] = self.lr_ratio
        return found


def groups_of(config: TrialConfig, model: nn.Module, adamw_ratio: float = 1.0) -> list[Group]:
    """The groups of all parameters of `model`, in the order of their first parameters.

    `adamw_ratio` is the ratio of learning rates of Muon's second optimizer to the first. Raises UserError for a pattern
    that no parameter's name matches, or that gives Muon what it cannot take.
    """
    patterns = read_parameter_groups(config.parameter_groups)
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern.pattern) for name in names):
            shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
            raise UserError(f"`parameter_groups`: no parameter is named {pattern.pattern}; the names are {shown}")
    spared = set(undecayed(model)) if is_decoupled(config) else set()
    hidden = set(hidden_matrices(model)) if config.optimizer == "muon" else set()
    found: list[Group] = []
    for name, parameter in model.named_parameters():
        matching = (pattern for pattern in patterns if fnmatchcase(name, pattern.pattern))
        of_pattern = dict(next(matching, ParameterGroup("", {})).options)
        by_adamw = config.optimizer == "muon" and name not in hidden
        if (chosen := of_pattern.pop("optimizer", None)) is not None:
            by_adamw = chosen == "adamw"
            if not by_adamw and parameter.ndim != 2:
                raise UserError(f"`parameter_groups`: muon takes only matrices, got {name}, {tuple(parameter.shape)}")
        own = 0.0 if name in spared else config.weight_decay
        base = config.learning_rate * (adamw_ratio if by_adamw else 1.0)
        group = Group(
            weight_decay=resolved(of_pattern.pop("weight_decay", own), config.weight_decay),
            lr_ratio=resolved(of_pattern.pop("lr", base), base) / config.learning_rate,
            options=of_pattern,
            by_adamw=by_adamw,
        )
        alike = next((one for one in found if _settings(one) == _settings(group)), None)
        if alike is None:
            found.append(alike := group)
        alike.params.append(parameter)
    return found


def decayed_parameters(config: TrialConfig, model: nn.Module) -> int | None:
    """How many numbers weight decay acts on; None where a user's own class decides."""
    if config.trial is not None or is_import_path(config.optimizer):
        return None
    if not takes_weight_decay(config):
        return 0
    least = 2 if config.layer_adaptation else 0  # dimensions
    decayed = (p for group in groups_of(config, model) if group.weight_decay for p in group.params if p.ndim >= least)
    return sum(parameter.numel() for parameter in decayed if parameter.requires_grad)


def undecayed(model: nn.Module) -> Iterator[str]:
    """The names of biases and of what belongs to norms, and of all else with fewer than two dimensions."""
    of_norms = {id(own) for module in model.modules() if isinstance(module, NORMS) for own in module.parameters()}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or id(parameter) in of_norms or name.rpartition(".")[2] == "bias":
            yield name


def hidden_matrices(model: nn.Module) -> Iterator[str]:
    """The names of the matrices that Muon takes. A head that is tied to an embedding is an embedding."""
    embeddings = {
        id(own) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) for own in m.parameters()
    }
    spared = set(undecayed(model))
    head: set[int] = set()
    for module in model.modules():
        head = {id(own) for own in module.parameters(recurse=False) if own.ndim == 2} or head
    for name, parameter in model.named_parameters():
        is_spared = name in spared or id(parameter) in embeddings or "embed" in name.lower()
        if parameter.ndim == 2 and not is_spared and id(parameter) not in head:
            yield name


def _settings(group: Group) -> tuple[Any, ...]:
    return group.weight_decay, group.lr_ratio, sorted(group.options.items()), group.by_adamw
