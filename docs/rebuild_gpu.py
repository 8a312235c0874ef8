"""Write the tables of docs/gpu.md anew from the results kept in docs/kept/gpu/gpu.json, as benchmarks/gpu.py has them.

    python docs/rebuild_gpu.py

Only the part between `<!-- generated: gpu -->` and `<!-- end of gpu -->` is written.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:1] = [str(HERE.parent / "benchmarks")]

import gpu  # noqa: E402

PAGE = HERE / "gpu.md"
BEGIN, END = "<!-- generated: gpu -->\n", "<!-- end of gpu -->"


def rebuilt(page: str) -> str:
    """`page` with the tables of the kept results, whose headings are a level below the page's."""
    parts = json.loads((HERE / "kept" / "gpu" / "gpu.json").read_text(encoding="utf-8"))["parts"]
    tables = "\n".join(f"#{line}" if line.startswith("## ") else line for line in gpu.sections(parts))
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{tables}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(rebuilt(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
