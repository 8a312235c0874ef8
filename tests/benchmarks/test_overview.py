"""benchmarks/overview.py keeps the figures of its parts in one file, and goes on where it was."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "overview.py"
BENCHMARK = """
import json, sys
from pathlib import Path
runs = Path(sys.argv[1])
runs.write_text(runs.read_text() + "." if runs.exists() else ".")
Path(sys.argv[3]).write_text(json.dumps({"ratio": len(runs.read_text()), "rows": [{"plain": 1.25}]}))
"""


def overview(monkeypatch: pytest.MonkeyPatch, *arguments: str, parts: dict[str, list[str]]) -> None:
    spec = importlib.util.spec_from_file_location("overview", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PARTS", parts)
    monkeypatch.setattr(sys, "argv", ["overview.py", *arguments])
    module.main()


def test_parts_are_kept_and_not_repeated_unless_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script, output = tmp_path / "benchmark.py", tmp_path / "output"
    script.write_text(BENCHMARK)
    parts = {name: [str(script), str(tmp_path / name)] for name in ("gpt", "sweep")}

    def ratios(*arguments: str) -> dict[str, Any]:
        overview(monkeypatch, "--json", str(output), *arguments, parts=parts)
        kept = json.loads((output / "overview.json").read_text())["parts"]
        assert list(kept) == [name for name in parts if name in kept]
        return {name: part["figures"]["ratio"] for name, part in kept.items()}

    assert ratios("--part", "sweep", "--note", "busy") == {"sweep": 1}
    assert ratios() == {"gpt": 1, "sweep": 1}
    assert ratios() == {"gpt": 1, "sweep": 1}
    assert ratios("--part", "sweep") == {"gpt": 1, "sweep": 2}
    kept = json.loads((output / "overview.json").read_text())["parts"]
    assert kept["sweep"]["note"] == kept["gpt"]["note"] == ""
    assert all(kept["gpt"][name] for name in ("processor", "cores", "torch", "finished_on"))
    assert capfd.readouterr().out.endswith("sweep: 2.0 times the trials a minute of plain Ray Tune\n")
