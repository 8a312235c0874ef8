"""Models of torchvision, timm and Hugging Face transformers by name. Nothing is downloaded and no pickle is read.

    torchvision:resnet18             any classifier of torchvision; torchvision.models:resnet18 is the same
    timm:vit_tiny_patch16_224        any model of timm
    hf:path/to/folder                what the folder's config.json describes: a classifier of images or of token ids, a
                                     causal language model, or an encoder-decoder for pairs, as the data ask for

Weights are random unless `weights` asks for a safetensors file (for hf `weights=true`: those in the folder). The number
of classes is passed to the library, as are the number of channels and the image size where it takes them and no weights
are given; all other options are the library's own. A file for another number of classes is refused, unless `adapt_head`
asks for a last layer with random weights.
"""

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.models.seq2seq import padding_mask
from trainables.runtime.errors import UserError, quoted

DOWNLOADING = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
EXTRAS = {"timm": "timm", "transformers": "hf", "safetensors": "hf"}  # of this project, by what they bring


def library_of(name: str) -> str | None:
    """The library that has the model `name`, None for one of ours or of the user's own.

    Raises UserError for transformers, whose models take a configuration from a folder.
    """
    module = name.partition(":")[0]
    if module.partition(".")[0] == "transformers" and ":" in name:
        raise UserError(f"`model` must be hf:FOLDER, a folder with a config.json, for transformers, got {name}")
    found = module if module == "hf" else module.partition(".")[0]
    return found if ":" in name and found in _BUILDERS else None


def library_model(
    name: str,
    input_dtype: torch.dtype,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    weights: str | bool | None = None,
    adapt_head: bool = False,
    **options: Any,
) -> nn.Module:
    """The model `name` for inputs of `input_shape`. Raises UserError for a library that is not installed, an unknown
    name or option, and weights that do not fit.
    """
    library, own = library_of(name), name.partition(":")[2]
    if adapt_head and not weights:
        raise UserError("`adapt_head` cannot be used without `weights`: the last layer has one output for each class")
    refused = [option for option in options if option in DOWNLOADING]
    if refused:
        raise UserError(f"`{refused[0]}` cannot be used with {name}: nothing is downloaded; weights=FILE.safetensors")
    if library == "hf":
        return _hugging_face(own, input_dtype, input_shape, num_classes, weights, adapt_head, options)
    try:
        model = _BUILDERS[str(library)](own, input_shape, num_classes, options)
    except TypeError as error:
        raise UserError(f"`model-options` must be options of {name}, got {quoted(error)}") from error
    if weights:
        _load(model, name, Path(str(weights)), num_classes, adapt_head)
    return model


def library_source(name: str) -> str | None:
    """What beside its name, options and weights decides what the library's model computes; None for other models."""
    library = library_of(name)
    if library != "hf":
        return library
    return _config_of(name.partition(":")[2]).read_text(encoding="utf-8", errors="replace")


def _torchvision(name: str, input_shape: tuple[int, ...], num_classes: int, options: dict[str, Any]) -> nn.Module:
    models = _imported("torchvision").models
    _check_name("torchvision", name, models.list_models(module=models))
    model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    return model


def _timm(name: str, input_shape: tuple[int, ...], num_classes: int, options: dict[str, Any]) -> nn.Module:
    timm = _imported("timm")
    _check_name("timm", name, timm.list_models())
    if len(input_shape) == 3:
        options = {"in_chans": input_shape[0], **options}
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, **options)
    return model


_BUILDERS: dict[str, Callable[..., nn.Module]] = {"torchvision": _torchvision, "timm": _timm, "hf": nn.Identity}


def _hugging_face(
    folder: str,
    input_dtype: torch.dtype,
    input_shape: tuple[int, ...],
    num_classes: int,
    weights: str | bool | None,
    adapt_head: bool,
    options: dict[str, Any],
) -> nn.Module:
    path = _config_of(folder).parent
    if weights not in (None, True, False):
        raise UserError(f"`weights` must be true for hf, which reads those in the folder, got {weights!r}")
    if weights and len(input_shape) == 2:
        raise UserError("`weights` cannot be used with pairs, whose token ids are not those of the model's tokenizer")
    transformers = _imported("transformers")
    of_tokens = not input_dtype.is_floating_point
    if of_tokens:
        kind = "AutoModelForSeq2SeqLM" if len(input_shape) == 2 else "AutoModelForCausalLM"
    else:
        kind = "AutoModelForImageClassification" if len(input_shape) == 3 else "AutoModelForSequenceClassification"
    log = transformers.utils.logging
    verbosity, has_bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        config, unknown = transformers.AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, return_unused_kwargs=True, **options
        )
        if unknown:
            raise UserError(f"`model-options` must be fields of {path / 'config.json'}, got {', '.join(unknown)}")
        _fit(config, of_tokens, input_shape, num_classes, bool(weights), options)
        build = getattr(transformers, kind)
        if weights:
            model, report = build.from_pretrained(
                path, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True,
                dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True,
            )  # fmt: skip
            new = {str(found[0] if isinstance(found, tuple) else found) for found in report["mismatched_keys"]}
            _check_new(model, new | set(report["missing_keys"]), f"hf:{folder}", path, num_classes, adapt_head)
        else:
            model = build.from_config(config, trust_remote_code=False)
    except UserError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, AssertionError) as error:
        raise UserError(f"`model` hf:{folder} must be a {kind} of this data, got {quoted(error)}") from error
    finally:
        log.set_verbosity(verbosity)
        if has_bars:
            log.enable_progress_bar()
    if len(input_shape) == 2:
        model.register_forward_pre_hook(_as_pair, with_kwargs=True)
    return model  # type: ignore[no-any-return]


def _fit(
    config: Any, of_tokens: bool, shape: tuple[int, ...], num_classes: int, has_weights: bool, options: dict[str, Any]
) -> None:
    """Put what the data decide into `config`, in place."""
    config.use_cache = False  # no states of earlier calls
    if of_tokens and not has_weights:
        config.vocab_size = num_classes
        for token in ("pad_token_id", "bos_token_id", "eos_token_id"):
            ids = getattr(config, token, None)
            if any(number >= num_classes for number in (ids if isinstance(ids, list) else [ids or 0])):
                setattr(config, token, None)
    elif of_tokens and config.vocab_size < num_classes:
        raise UserError(
            f"`weights` must be of a vocabulary of at least the data's {num_classes} tokens, got {config.vocab_size}; "
            "read the text with the model's own tokenizer.json"
        )
    elif not of_tokens:
        config.num_labels = num_classes
    if len(shape) == 3 and not has_weights:
        fields = {"num_channels": shape[0], "image_size": shape[1]} if shape[1] == shape[2] else {}
        for name, value in fields.items():
            if hasattr(config, name) and name not in options:
                setattr(config, name, value)


def _as_pair(module: nn.Module, arguments: tuple[Tensor, ...], named: dict[str, Any]) -> Any:
    """The pairs (N, 2, T) of trainables.data.pairs as transformers takes them."""
    source, target = arguments[0].unbind(1)
    return (), {
        **named,
        "input_ids": source,
        "attention_mask": padding_mask(source).long(),
        "decoder_input_ids": target,
    }


def _load(model: nn.Module, name: str, file: Path, num_classes: int, adapt_head: bool) -> None:
    """Put the weights in `file` into `model`."""
    if file.suffix != ".safetensors" or not file.is_file():
        raise UserError(f"`weights` must name a .safetensors file, got {file}; pickles are not read")
    try:
        state = _imported("safetensors.torch").load_file(file)
    except UserError:
        raise
    except Exception as error:  # of a library in Rust
        raise UserError(f"`weights` must name a .safetensors file, got {file} ({quoted(error)})") from error
    own = model.state_dict()
    new = {key for key, value in own.items() if key not in state or state[key].shape != value.shape}
    _check_new(model, new, name, file, num_classes, adapt_head)
    model.load_state_dict({key: value for key, value in state.items() if key in own and key not in new}, strict=False)


def _check_new(model: nn.Module, new: Iterable[str], name: str, file: Path, num_classes: int, adapt_head: bool) -> None:
    """Raise UserError if the parameters `new`, which the file does not have in their shape, are to be loaded."""
    own = model.state_dict()
    head = {key for key in new if key in own and own[key].ndim and own[key].shape[0] == num_classes}
    others = sorted(set(new) - head)
    if others or (head and not adapt_head):
        way_out = "" if others else "; adapt_head=true gives that layer random weights"
        raise UserError(
            f"`weights` must hold all weights of {name} in their shapes, got none that fit "
            f"{', '.join((others or sorted(head))[:3])} in {file}{way_out}"
        )


def _config_of(folder: str) -> Path:
    file = Path(folder).expanduser() / "config.json"
    if not file.is_file():
        raise UserError(f"`model` must be hf:FOLDER, a folder with a config.json, got no {file}; nothing is downloaded")
    return file


def _check_name(library: str, name: str, known: Iterable[str]) -> None:
    known = list(known)
    if name not in known:
        from difflib import get_close_matches

        close = ", ".join(get_close_matches(name, known, 5, 0.5)) or ", ".join(known[:5]) + ", ..."
        raise UserError(f"`model` must be {library}:NAME for a classifier such as {close}, got {name!r}")


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        extra = EXTRAS.get(package)
        way_out = f"pip install 'large-batch-sweeps[{extra}]'" if extra else f"pip install {package}"
        raise UserError(f"`model` needs {package}, which cannot be imported ({quoted(error)}); {way_out}") from error
