"""Networks made by `torch.compile`, run without compiling them."""

import contextlib
import sys
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Run in the block the Python code of what `torch.compile` has made.

    Compiling takes minutes, which a check on two examples is not worth, and compiled code has no second derivatives.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
