"""Ray's access token: whoever has it can run code on every machine of the cluster.

For a Ray of its own a sweep leaves Ray's token mode on (Ray's default there since 2.59) and makes the token before Ray
starts, readable for its owner alone; Ray itself would write it readable for everybody. A cluster elsewhere is sent the
token, in clear text, with the first request: this is said before.
"""

import contextlib
import os
import secrets
import socket
import sys
from pathlib import Path


def token_file() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()


def make_token() -> None:
    """Makes the token file where there is none, and takes the rights of others from one that is there."""
    mode, path = os.environ.get("RAY_AUTH_MODE", "token").lower(), token_file()
    if mode != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    with contextlib.suppress(OSError):  # Ray says so itself
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            path.touch(mode=0o600, exist_ok=False)
            path.write_text(secrets.token_hex(32), encoding="ascii")
        except FileExistsError:
            path.chmod(0o600)


def dashboard_line(url: str) -> str:
    """The address of Ray's dashboard, and where the token is that it asks for."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return url
    where = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else token_file()
    return f"{url} (asks for the token in {where})"


def tell_of_token(address: str) -> None:
    """Prints a line where the token is about to be sent to another machine."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "auto")
    host = address.removeprefix("ray://").rpartition(":")[0] or address
    has_token = bool(os.environ.get("RAY_AUTH_TOKEN")) or token_file().exists()
    if os.environ.get("RAY_AUTH_MODE", "token").lower() == "token" and has_token and not _is_here(host):
        print(
            f"Sending Ray's token ({token_file()}) to {host}, without encryption; RAY_AUTH_MODE=disabled sends none",
            file=sys.stderr,
            flush=True,
        )


def _is_here(host: str) -> bool:
    if host in ("auto", "localhost", "::1", "[::1]") or host.startswith("127."):
        return True
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((host, 0))  # only an address of this machine can be bound
        return True
    return False
