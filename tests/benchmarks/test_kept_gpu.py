"""docs/gpu.md has the tables of the kept run, docs/kept/gpu/gpu.json, as benchmarks/gpu.py writes them."""

import json
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_the_page_has_the_tables_of_the_kept_run() -> None:
    sys.path.insert(0, str(PROJECT / "benchmarks"))
    try:
        import gpu
    finally:
        sys.path.pop(0)
    parts = json.loads((PROJECT / "docs" / "kept" / "gpu" / "gpu.json").read_text())["parts"]
    page = (PROJECT / "docs" / "gpu.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- generated: gpu -->\n")[2].partition("<!-- end of gpu -->")[0]
    expected = [line.replace("## ", "### ") if line.startswith("## ") else line for line in gpu.sections(parts)]
    assert shown.strip().splitlines() == "\n".join(expected).strip().splitlines()
