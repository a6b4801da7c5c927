"""moto's S3 server on 127.0.0.1, in a thread of this process: no request leaves the machine.

Its address is in the environment, as the credentials are.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
KEY, SECRET = "AKIALABEL2BOXTESTKEY", "label2box-test-secret-0123456789"


class Server:
    """The server, which can be stopped and started again with all that it holds."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        write_in_one_step()
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        self._server.stop()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def write_in_one_step() -> None:
    """Let the server look whether there is an object and write it in one step, as S3 does.

    Of two threads that create the same object (If-None-Match: *), moto may let both.
    """
    from moto.s3.responses import S3Response

    if not hasattr(S3Response.put_object, "__wrapped__"):
        S3Response.put_object = answer_alone(S3Response.put_object, threading.Lock())


def answer_alone(request: Callable[..., Any], lock: threading.Lock) -> Callable[..., Any]:
    """A request to a store that waits for others with the same lock."""

    @wraps(request)
    def answer(*arguments: Any, **options: Any) -> Any:
        with lock:
            return request(*arguments, **options)

    return answer


def serve() -> Iterator[Server]:
    """Start the server for a module."""
    server = Server()
    yield server
    server.stop()


def set_environment(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let s3fs find the server and its credentials, and nothing of this machine's own."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1", "NO_PROXY": "127.0.0.1", "XDG_CACHE_HOME": f"{tmp_path}/cache",
        "AWS_CONFIG_FILE": f"{tmp_path}/none", "AWS_SHARED_CREDENTIALS_FILE": f"{tmp_path}/none",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
