"""Requests over a network, sent again after growing waits where network or server fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import UserError
from pipeline.formats.remote_errors import describe_failure, is_unreachable, lacks_credentials

ATTEMPTS = 3  # of a request that fails for a reason of the server's own
PATIENT_ATTEMPTS = 7  # where the server cannot be reached: with these waits 25 seconds
FIRST_WAIT = 0.2  # seconds
GROWTH = 2.5  # of the waits
LONGEST_WAIT = 10.0  # seconds
FINAL = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    NotADirectoryError,
    IsADirectoryError,
    UserError,
)
"""Answers, which another attempt would not change."""

Answer = TypeVar("Answer")


def send(address: str, request: Callable[[], Answer], is_patient: bool = True) -> Answer:
    """Return the answer to a request, which is sent again where network or server fail.

    Args:
        address: That it is about, as s3://bucket/photos; for messages.
        request: Sends it.
        is_patient: Whether a server that cannot be reached is waited for, as in the middle of a
            run; at the start of one a wrong address is the more likely reason.

    Raises:
        UserError: The server cannot be reached.
        OSError: It cannot answer; or as `request` does where another attempt cannot help.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return request()
        except FINAL:
            raise
        except Exception as error:  # each file system has errors of its own
            is_gone = is_unreachable(error)
            if attempt < (PATIENT_ATTEMPTS if is_gone and is_patient else ATTEMPTS) and (
                not lacks_credentials(error)
            ):
                time.sleep(min(LONGEST_WAIT, FIRST_WAIT * GROWTH ** (attempt - 1)))
                continue
            count = f"{attempt} attempt{'s' * (attempt > 1)}"
            reason = describe_failure(address, error)
            if is_gone and is_patient:
                raise UserError(
                    f"{address}: its server cannot be reached in {count} ({reason}); what was "
                    "finished is kept, and the same command goes on from here"
                ) from error
            raise OSError(f"not read in {count} ({reason})") from error
