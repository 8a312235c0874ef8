"""A hundred mistakes, and one answer to all: a line that names the argument and the way out, status 2, nothing written.

Each runs the script's own `main` in this process, but for a few that are processes of their own.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_files import write_bad_files

from trainables.storage.lease import hold

ROOT = Path(__file__).parents[1]
GRID, TUNED, KESKAR = "sweeps.batch_grid", "sweeps.tuned_gap", "sweeps.keskar_tables"
SHARPNESS = "trainables.sharpness.__main__"
RUN = {GRID, TUNED, KESKAR, *(f"sweeps.{name}" for name in (
    "branched_batch", "evolution", "minima", "optimization_issue", "paper_remedies", "resilience", "scaling_rules",
    "threshold_batch", "warm_start",
))}  # fmt: skip
OF_A_SWEEP = [f"analysis.{name}" for name in (
    "batch_size_curves", "branched_batch", "critical_batch", "evolution", "free_batch", "gap_vs_sharpness",
    "importance", "keskar_figure4", "keskar_tables", "landscape", "leaderboard", "learning_rate_heatmap",
    "optimization_issue", "optimizer_ladder", "paper_remedies", "parametric_plot", "remedies", "report", "rescaling",
    "resilience",
    "scaling_rules", "serve", "summary", "switch_point", "threshold_batch", "tuned_gap", "warm_start",
    "warmup_heatmap", "data_size",
)]  # fmt: skip

# script, arguments ({bad}: the folder of bad_files.py), what the line holds
CASES: list[tuple[str, str, str]] = [
    # options of the grid
    (GRID, "--batch-sizes 0", "--batch-sizes: must be a whole number of 1 or more, got 0"),
    (GRID, "--batch-sizes -4", "--batch-sizes"),
    (GRID, "--batch-sizes 2.5", "must be a whole number of 1 or more, got 2.5"),
    (GRID, "--batch-sizes nan", "must be a whole number of 1 or more, got nan"),
    (GRID, "--batch-sizes 1e9", "must be a whole number of 1 or more, got 1e9"),
    (GRID, "--batch-sizes", "--batch-sizes: expected at least one argument"),
    (GRID, "--batch-sizes 301", "`--batch-sizes`: 301 is larger than the training set (300 examples)"),
    (GRID, "--learning-rates nan", "--learning-rates: must be a number above 0, got nan"),
    (GRID, "--learning-rates inf", "must be a number above 0, got inf"),
    (GRID, "--learning-rates 0", "must be a number above 0, got 0"),
    (GRID, "--learning-rates=-1", "must be a number above 0, got -1"),
    (GRID, "--learning-rates fast", "must be a number above 0, got fast"),
    (GRID, "--warmup-epochs nan", "--warmup-epochs: must be a number of 0 or more, got nan"),
    (GRID, "--warmup-epochs 1000", "`warmup_epochs` must be between 0 and `epochs`"),
    (GRID, "--switch-epochs 1.5", "--switch-epochs: must be none or a whole number of 0 or more, got 1.5"),
    (GRID, "--switch-epochs=-1", "must be none or a whole number of 0 or more, got -1"),
    (GRID, "--switch-batch-size 5000", "`switch_batch_size` must be between 1 and the 300"),
    (GRID, "--switch-learning-rate cubic", "--switch-learning-rate: invalid choice: 'cubic'"),
    (GRID, "--seeds=-1", "--seeds: must be a whole number of 0 or more, got -1"),
    (GRID, "--plan", "there is no pilot in"),
    (GRID, "--plan --power 1.5", "`--power` must be between 0.05 and 0.99, got 1.5"),
    (GRID, "--plan --until-decided", "not allowed with argument --plan"),
    (GRID, "--power 0.9", "`--power 0.9` has no effect without --plan"),
    (GRID, "--margin 1", "`--margin 1.0` has no effect without --plan or --until-decided"),
    (GRID, "--plan --resume", "`--resume` has no effect with --plan, which trains nothing"),
    (GRID, "--plan --dry-run list", "`--dry-run` has no effect with --plan, which trains nothing"),
    (GRID, "--max-replicates 8", "`--max-replicates 8` has no effect without --until-decided"),
    (GRID, "--until-decided --max-replicates 4", "`--max-replicates` must be more than the 4 --seeds, got 4"),
    (GRID, "--until-decided --batch-sizes 16", "`--batch-sizes` must be two or more"),
    (GRID, "--split-seeds x", "--split-seeds: must be a whole number of 0 or more, got x"),
    (GRID, "--remedies nonsense=1", "`remedies` must"),
    (GRID, "--remedies sam_radius=-1", "`sam_radius` must"),
    (GRID, "--remedies sam_radius=nan", "`sam_radius` must"),
    (GRID, "--remedies sam_radius", "`remedies` must"),
    (GRID, "--remedies ghost_batch_size=0", "`ghost_batch_size` must"),
    (GRID, "--epochs 0", "--epochs: must be a whole number of 1 or more, got 0"),
    (GRID, "--target-loss -1", "--target-loss"),
    (GRID, "--target-loss nan", "must be a number above 0, got nan"),
    (GRID, "--weight-decay nan", "must be a number of 0 or more, got nan"),
    (GRID, "--optimizer sgd --momentum 1", "`momentum` must be in [0, 1), got 1"),
    (GRID, "--momentum 0.9", "`--momentum 0.9` has no effect with --optimizer adam"),
    (GRID, "--optimizer lbfgs --batch-sizes 300 --momentum 0.5", "has no effect with --optimizer lbfgs"),
    (GRID, "--switch-epochs none --switch-batch-size 200", "`--switch-batch-size 200` has no effect without a switch"),
    (GRID, "--switch-epochs none --switch-learning-rate sqrt", "has no effect without a switch; add --switch-epochs"),
    (GRID, "--switch-epochs none --switch-optimizer-state keep", "has no effect without a switch"),
    (GRID, "--measure-batch-size 100", "`--measure-batch-size 100` has no effect without --measure-batch-norm batch"),
    *((GRID, f"--measures none --measure-{option}", "has no effect with --measures none") for option in (
        "every 2", "share 0.1", "examples 10", "dtype float64", "batch-norm batch",
    )),
    (GRID, "--optimizer lion", "--optimizer: `optimizer` must be one of adam, sgd"),
    (GRID, "--optimizer lbfgs", "`batch_size` must be all 300 training examples for lbfgs"),
    (GRID, "--train-size 99999", "`train_size` must be between 1 and"),
    (GRID, "--test-size 99999", "`test_size` must be between 1 and"),
    (GRID, "--measures sharpness", "`measures` must be among"),
    (GRID, "--measure-batch-norm batch --measure-batch-size 1", "--measure-batch-size: must be a whole number of 2"),
    (GRID, "--measure-every 2 --measure-share 0.1", "`measure_every` cannot be used with `measure_share`"),
    (GRID, "--measure-dtype float16", "--measure-dtype: invalid choice: 'float16'"),
    (GRID, "--batch-size 16", "unknown option --batch-size; did you mean --batch-sizes?"),
    (GRID, "sixteen", "unknown argument sixteen"),
    # the run
    (GRID, "--name ../up", "--name: must be a plain folder name, got '../up'"),
    (GRID, "--name .hidden", "must be a plain folder name"),
    (GRID, "--results {bad}/foreign --name .", "must be a plain folder name"),
    (GRID, "--results {bad} --name foreign", "foreign holds files that no sweep has written"),
    (GRID, "--results {bad}/a_file", "cannot be written"),
    (GRID, "--results {bad} --name a_file", "cannot be written"),
    (GRID, "--results /proc/nowhere", "`--results`: /proc/nowhere"),
    (GRID, "--results ftp://host/folder", "`results` must be a folder or a URI such as s3://bucket/path"),
    (GRID, "--results s3://bucket/a?nonsense=1", "Unexpected query parameter"),
    (GRID, "--results s3://key:secret@bucket/a", "`results` must be a URI without credentials, got s3://key:***@"),
    (GRID, "--results {bad} --name s_empty", "--resume continues with them"),
    (GRID, "--results {bad} --name s_record_format --resume", "`results` must hold records of format 1, got 99"),
    (GRID, "--seeds 9223372036854775808", "--seeds: must be a whole number below 2**63, got 9223372036854775808"),
    (GRID, "--remedies base_batch_size=9223372036854775808,learning_rate_scaling=sqrt", "`base_batch_size` must fit"),
    (GRID, "--results {bad} --name s_table_cut --resume", "`results` must hold whole tables"),
    (GRID, "--results {bad} --name s_table_columns --resume", "`results` must hold tables of this version"),
    (GRID, "--address 127.0.0.1:1", "`--address`: no Ray cluster can be reached at 127.0.0.1:1"),
    (GRID, "--address ray://127.0.0.1:1", "`--address`: no Ray cluster can be reached"),
    (GRID, "--address no.such.host.invalid:6379", "`--address`: no Ray cluster can be reached"),
    (GRID, "--address 127.0.0.1:99999", "`--address`: no Ray cluster can be reached"),
    *((GRID, f"--address={address}", "an address is auto, local, HOST:PORT or ray://HOST:PORT") for address in (
        "", ":", "127.0.0.1:-1", "127.0.0.1:", ":6379", "127.0.0.1:0", "127.0.0.1:x", "127.0.0.1:٣", "somewhere",
        "ray://somewhere", "127.0.0.1:" + "9" * 400,
    )),
    (GRID, "--cpus-per-trial 0", "--cpus-per-trial: must be a whole number of 1 or more, got 0"),
    (GRID, "--gpus-per-trial 1", "`--gpus-per-trial 1`: Ray finds no GPU on this machine"),
    (GRID, "--gpus-per-trial nan", "--gpus-per-trial: must be a number of 0 or more, got nan"),
    (GRID, "--gpus-per-trial 0.5 --workers-per-trial 2", "`--gpus-per-trial` must be a whole number"),
    (GRID, "--workers-per-trial 0", "--workers-per-trial: must be a whole number of 1 or more, got 0"),
    (GRID, "--micro-batch-size 0", "--micro-batch-size: must be a whole number of 1 or more, got 0"),
    (GRID, "--memory-per-trial 0", "--memory-per-trial: must be a number above 0, got 0"),
    (GRID, "--trial-timeout 0", "--trial-timeout: must be a number above 0, got 0"),
    (GRID, "--checkpoint-seconds inf", "--checkpoint-seconds: must be a number of 0 or more, got inf"),
    (GRID, "--track comet", "--track: must be mlflow, mlflow:URI, wandb or wandb:PROJECT, got 'comet'"),
    (GRID, "--plain --quiet", "--quiet: not allowed with argument --plain"),
    # data
    (GRID, "--dataset imagenet", "`dataset` must be one of"),
    (GRID, "--dataset mnist --data-dir {bad}", "`dataset` mnist is not complete in torchvision's layout"),
    (GRID, "--dataset cifar10 --data-dir {bad}/nowhere", "`dataset` cifar10 is not complete"),
    (GRID, "--dataset digits --dataset-options size=3", "`dataset-options` must be among"),
    (GRID, "--dataset-options size", "--dataset-options: must be KEY=VALUE, got size"),
    (GRID, "--dataset parquet --data-dir {bad}/nowhere", "`data-dir` must be a folder with *train*.parquet"),
    (GRID, "--dataset parquet --data-dir {bad}/p_no_test", "`data-dir` must be a folder with *train*.parquet"),
    (GRID, "--dataset parquet --data-dir {bad}/p_garbage", "`data-dir` must hold whole Parquet files"),
    (GRID, "--dataset parquet --data-dir {bad}/p_cut", "`data-dir` must hold whole Parquet files"),
    (GRID, "--dataset parquet --data-dir {bad}/p_no_label", "`data-dir` must hold Parquet with columns"),
    (GRID, "--dataset parquet --data-dir {bad}/p_text_label", "`data-dir` must hold labels of one type"),
    (GRID, "--dataset parquet --data-dir {bad}/p_null_label", "`data-dir` must hold Parquet without missing labels"),
    (GRID, "--dataset parquet --data-dir {bad}/p_plain_image", "`data-dir` must hold Parquet whose image is struct"),
    (GRID, "--dataset parquet --data-dir {bad}/p_not_an_image", "`data-dir` must hold readable images"),
    (GRID, "--dataset parquet --data-dir {bad}/p_null_image", "`data-dir` must hold readable images"),
    (GRID, "--dataset parquet --data-dir {bad}/p_sizes", "`data-dir` must hold images of one size"),
    (GRID, "--dataset parquet --data-dir {bad}/p_negative", "`dataset` parquet must have labels from 0"),
    (GRID, "--dataset parquet --data-dir {bad}/p_empty", "`data-dir` must hold images, got none"),
    (GRID, "--dataset image_folder --data-dir {bad}/nowhere", "`data-dir` must hold train/CLASS/IMAGE files"),
    (GRID, "--dataset image_folder --data-dir {bad}/i_no_images", "`data-dir` must hold train/CLASS/IMAGE files"),
    (GRID, "--dataset image_folder --data-dir {bad}/i_classes", "`data-dir` must have the same classes"),
    (GRID, "--dataset image_folder --data-dir {bad}/i_damaged", "`data-dir` must hold readable images"),
    (GRID, "--dataset image_folder --data-dir {bad}/i_sizes", "`data-dir` must hold images of one size"),
    (GRID, "--dataset text --data-dir {bad}/nowhere.txt", "`data-dir` must be a text file"),
    (GRID, "--dataset text --data-dir {bad}/text.txt --model lstm", "`context` must be shorter than"),
    (GRID, "--dataset text --data-dir {bad}/latin.txt --model lstm", "`data-dir` must hold UTF-8 text"),
    (GRID, "--dataset timit --data-dir {bad}", "`data-dir` must"),
    (GRID, "--data-dir {bad}/nowhere", "has no effect with --dataset digits, which reads no files"),
    (GRID, "--dataset users_code:good_data --data-dir {bad}", "which reads no files; a function of your own takes"),
    (GRID, "--dataset users_code:good_data --download", "`--download` has no effect with --dataset users_code"),
    (GRID, "--dataset text --download", "`--download` has no effect with --dataset text; it fetches cifar10, cifar100"),
    (GRID, "--cache-dir {bad}", "has no effect with --dataset digits, which keeps nothing there"),
    (GRID, "--dataset text --data-dir {bad}/text.txt --cache-dir {bad}/text.txt", "is not writable (File exists)"),
    (GRID, "--remedies base_batch_size=16", "`base_batch_size=16` has no effect without learning_rate_scaling"),
    # a dataset of the user's own
    (GRID, "--dataset sys:exit", "`dataset` sys:exit must return"),
    (GRID, "--dataset builtins:dict", "`dataset` builtins:dict must return"),
    (GRID, "--dataset builtins:max --dataset-options a=1", "`dataset` builtins:max must return"),
    (GRID, "--dataset users_code:data_exits", "`dataset` users_code:data_exits must return"),
    (GRID, "--dataset exiting_code:data", "`dataset` must be an importable"),
    (GRID, "--dataset :", "`dataset` must be an importable"),
    (GRID, "--dataset a:b:c", "`dataset` must be an importable"),
    (GRID, "--model sys:exit", "`model`"),
    (GRID, "--model exiting_code:data", "`model` must be an importable"),
    (GRID, "--dataset-options a=" + "[" * 100_000, "--dataset-options: must not be nested so deeply"),
    (GRID, "--model-options a=" + "[" * 100_000, "--model-options: must not be nested so deeply"),
    (GRID, "--name a\0b", "must be a plain folder name"),
    (GRID, "--dataset text --data-dir a\0b", "`data-dir` must be a text file"),
    (GRID, "--dataset image_folder --data-dir a\0b", "`data-dir` must hold train/CLASS/IMAGE files"),
    (GRID, "--dataset parquet --data-dir a\0b", "`data-dir` must be a folder with"),
    (GRID, "--dataset timit --data-dir a\0b", "`data-dir` must"),
    (GRID, "--dataset mnist --data-dir a\0b", "`dataset` mnist is not complete"),
    (GRID, "--dataset cifar10 --data-dir a\0b", "`dataset` cifar10 is not complete"),
    (GRID, "--dataset a\0b:c", "`dataset` must be an importable"),
    (GRID, "--results a\0b", "`results`"),
    (GRID, "--dataset nowhere:data", "`dataset` must be an importable"),
    (GRID, "--dataset users_code:nothing", "`dataset` must be an importable"),
    (GRID, "--dataset users_code:not_callable", "`dataset` must name a function"),
    (GRID, "--dataset users_code:data_raises", "`dataset` users_code:data_raises must return"),
    (GRID, "--dataset users_code:data_three", "`dataset` users_code:data_three must return"),
    (GRID, "--dataset users_code:data_none", "must return training inputs and labels"),
    (GRID, "--dataset users_code:data_nan", "must have finite inputs"),
    (GRID, "--dataset users_code:data_text", "`dataset` users_code:data_text must"),
    (GRID, "--dataset users_code:data_float_labels", "must return integer labels, class numbers from 0"),
    (GRID, "--dataset users_code:data_negative", "must have labels from 0"),
    (GRID, "--dataset users_code:data_few_labels", "must have one label for each training input"),
    (GRID, "--dataset users_code:data_shapes", "must have training and test inputs of one shape"),
    (GRID, "--dataset users_code:data_empty", "must hold training examples, got none"),
    # models
    (GRID, "--model vgg", "`model` must be one of mlp, f1, f2, c1"),
    (GRID, "--model-options depth=3", "must be among widths, batch_norm, activation, dropout for mlp, got 'depth'"),
    (GRID, "--model-options widths=-3", "`widths` must"),
    (GRID, "--model-options widths=abc", "`widths` must"),
    (GRID, "--model broken_code:model", "`model` must be an importable"),
    (GRID, "--model users_code:model_raises", "`model`"),
    (GRID, "--model users_code:model_wrong_shape", "`model` must map 2 inputs to logits of shape"),
    (GRID, "--model users_code:model_no_module", "`model` must build a torch.nn.Module, got int"),
    (GRID, "--model users_code:model_other_arguments", "`model`"),
    (GRID, "--model users_code:model_forward_raises", "`model` users_code:model_forward_raises must take inputs"),
    (GRID, "--model users_code:model_scalar", "`model` must map 2 inputs to logits of shape"),
    (GRID, "--model users_code:model_hangs --trial-timeout 0.3", "cannot be built: it took more than the 0.3 s of"),
    (GRID, "--model users_code:model_hangs_in_training --trial-timeout 0.3", "it took more than the 0.3 s of"),
    (GRID, "--model users_code:model_none", "`model` must map 2 inputs to logits of shape"),
    # the other studies
    (TUNED, "--trials 0", "--trials: must be a whole number of 1 or more, got 0"),
    (TUNED, "--learning-rate-range 0.1 0.001", "`learning_rate"),
    (TUNED, "--learning-rate-range 0.1", "--learning-rate-range: expected 2 arguments"),
    (TUNED, "--warmup-epochs-range 0 1000", "`warmup"),
    (TUNED, "--weight-decay-range 0 0.1", "`weight"),
    (TUNED, "--validation-size 99999", "`validation"),
    (TUNED, "--objective speed", "`--objective` must be metric (accuracy, the primary one of classification) or loss"),
    (TUNED, "--storage nonsense", "`--storage`: nonsense cannot be opened"),
    (TUNED, "--storage sqlite:////proc/nowhere/optuna.db", "cannot be opened as an Optuna storage"),
    (TUNED, "--results s3://bucket/a?region=x", "`--storage URL` is needed because the results are not"),
    (TUNED, "--trials 2 --budget-steps 100", "--budget-steps: not allowed with argument --trials"),
    (KESKAR, "--networks f1 --model mlp", "`--networks` has no effect with --model"),
    (KESKAR, "--scale huge", "--scale: invalid choice: 'huge'"),
    ("sweeps.resilience", "--batch-sizes 16", "--batch-sizes"),
    ("sweeps.evolution", "--seeds x", "--seeds: must be a whole number of 0 or more, got x"),
    ("sweeps.minima", "--dataset imagenet", "`dataset` must be one of"),
    ("sweeps.warm_start", "--batch-sizes 300 16", "`--batch-sizes` must be a small one and a larger one, got 300 16"),
    ("sweeps.paper_remedies", "--model vgg", "`model` must be one of"),
    ("sweeps.optimization_issue", "--learning-rate nan", "must be a number above 0, got nan"),
    ("sweeps.threshold_batch", "--epochs 0", "must be a whole number of 1 or more, got 0"),
    ("sweeps.status", "{bad}/foreign", "`results` must be a folder that a sweep has written"),
    ("sweeps.status", "{bad}/nowhere", "`results` must be a folder that a sweep has written"),
    ("sweeps.dashboard", "--grafana-port 0", "--grafana-port: must be a whole number of 1 or more, got 0"),
    # saved weights
    (SHARPNESS, "{bad}/nowhere.pt", "`weights` must be a state_dict saved by torch.save"),
    (SHARPNESS, "{bad}/garbage.pt", "`weights` must be a state_dict saved by torch.save"),
    (SHARPNESS, "{bad}/empty.pt", "`weights` must be a state_dict saved by torch.save"),
    (SHARPNESS, "{bad}/module.pt --model users_code:good_model --dataset users_code:good_data", "`weights` must be"),
    (SHARPNESS, "{bad}/list.pt --model users_code:good_model --dataset users_code:good_data", "`weights` must"),
    (SHARPNESS, "{bad}/other.pt --model users_code:good_model --dataset users_code:good_data", "`weights` must fit"),
    (SHARPNESS, "{bad}/other.pt", "must be a folder that a sweep has written"),
    (SHARPNESS, "{bad}/other.pt --model mlp", "`dataset` must be given with `model`"),
    (SHARPNESS, "{bad}/other.pt --measures nonsense", "`measures` must be among"),
    (SHARPNESS, "{bad}/other.pt --model-options {{", "--model-options"),
    (SHARPNESS, "{bad}/other.pt --device tpu9", "`device` must be one that torch has here, got 'tpu9'"),
    (SHARPNESS, "{bad}/other.pt --json {bad}/nowhere/a.json", "`json` must be a file in a folder that exists"),
    # results folders
    *((script, "{bad}/foreign", "`results` must") for script in OF_A_SWEEP),
    ("analysis.report", "{bad}/s_empty", "`results` must hold at least one trial that ended"),
    ("analysis.report", "{bad}/s_table_cut", "`results` must hold whole tables"),
    ("analysis.summary", "{bad}/s_record_cut", "`results` must hold whole records"),
    ("analysis.summary", "{bad}/s_record_no_object", "`results` must hold whole records"),
    ("analysis.summary", "{bad}/a_file", "`results` must"),
    ("analysis.summary", "ftp://host/x", "`results` must be a folder or a URI"),
    ("analysis.serve", "{bad}/s_empty --port 99999999", "`port` must be free and below 65536"),
    ("analysis.serve", "{bad}/s_empty --port x", "--port"),
    ("analysis.report", "", "the following arguments are required: results"),
]  # fmt: skip


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    write_bad_files(folder)
    return folder


def contents(folder: Path) -> set[tuple[str, int]]:
    """Every file but a sweep's lock, with its size."""
    files = (path for path in folder.rglob("*") if path.name not in (".lock", "__pycache__") and path.suffix != ".pyc")
    return {(str(path), path.stat().st_size if path.is_file() else 0) for path in files}


@pytest.mark.parametrize(("script", "given", "message"), CASES)
def test_one_line_and_nothing_written(
    script: str,
    given: str,
    message: str,
    bad: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusal: Callable[..., str],
    check_here: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(bad))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if "--address" not in given:
        monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("not refused before Ray is started"))
    before = contents(bad)
    words = given.format(bad=bad).split()
    more = ["--no-dashboard", "--plain"] if script in RUN and "--quiet" not in words else []
    assert message in refusal(importlib.import_module(script).main, [*more, *words])
    assert contents(bad) == before
    assert list(tmp_path.iterdir()) == []


def test_there_are_a_hundred() -> None:
    assert len({(script, given) for script, given, _ in CASES}) >= 100


def test_two_drivers_on_one_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "batch_grid"
    (folder / "trials").mkdir(parents=True)
    with hold(folder):
        for script in (GRID, TUNED):
            more = ["--results", str(tmp_path), "--name", "batch_grid", "--resume", "--no-dashboard"]
            assert importlib.import_module(script).main(more) == 2
            error = capsys.readouterr().err
            assert "`--name`: another sweep is using" in error
            assert error.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    assert importlib.import_module(GRID).main(["--results", str(tmp_path / "new")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["sweeps/batch_grid.py", "--model-options", "widths=-3", "--no-dashboard", "--plain"], "`widths` must be"),
        (["-m", "trainables.sharpness", "nowhere.pt"], "`weights` must be a state_dict"),
        (["analysis/report.py", "nowhere"], "`results` must be a folder that a sweep has written"),
    ],
)
def test_as_processes(tmp_path: Path, command: list[str], message: str) -> None:
    first, *rest = command
    script = [str(ROOT / first)] if first.endswith(".py") else [first]
    result = subprocess.run(
        [sys.executable, *script, *rest], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
