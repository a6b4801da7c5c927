"""Why a file at an address cannot be read, with what helps: each file system has its own errors.

Credentials come from the environment alone, so a remedy names its variables.
"""

from __future__ import annotations

import re

CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, in the environment; a "
    "public bucket needs none with FSSPEC_S3_ANON=true",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS=FILE in the environment; a public bucket needs none with "
    "FSSPEC_GS_TOKEN=anon",
}
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
"""Errors of the libraries below fsspec, which are known by their names alone."""
NO_CONNECTION = ("EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError")
BROKEN_CONNECTION = (
    "ConnectionClosedError",
    "ReadTimeoutError",
    "ResponseParserError",
    "HTTPClientError",
    "ServerDisconnectedError",
    "ClientOSError",
    "ClientPayloadError",
    "ServerTimeoutError",
    "FSTimeoutError",
)
HIDDEN = re.compile(r"(?<=://)[^/?#@\s]*@")  # user and password in an address
SIGNATURE = re.compile(
    r"[?&](X-Amz-(Signature|Credential|Security-Token)|X-Goog-(Signature|Credential)|Signature|sig"
    r"|AWSAccessKeyId|GoogleAccessId|access_token|token)=",
    re.IGNORECASE,
)


def lacks_credentials(error: BaseException) -> bool:
    """Return whether an error says that there are no credentials: no further attempt helps.

    Args:
        error: Of a file system of fsspec.
    """
    return type(error).__name__ in NO_CREDENTIALS


def is_unreachable(error: BaseException | None) -> bool:
    """Return whether an error says that a server is not there, or that a connection broke.

    Args:
        error: Of a file system of fsspec, or what it was raised from.
    """
    while error is not None:
        is_named = type(error).__name__ in (*NO_CONNECTION, *BROKEN_CONNECTION)
        if is_named or isinstance(error, ConnectionError | TimeoutError):
            return True
        error = error.__cause__
    return False


def hide_secrets(text: str) -> str:
    """Return a text without the users, passwords and signatures of addresses in it.

    Args:
        text: A message, or an address.

    Examples:
        >>> hide_secrets("s3://key:secret@bucket/photos")
        's3://***@bucket/photos'
        >>> hide_secrets("https://host/a.zip?X-Amz-Signature=12ab")
        'https://host/a.zip?X-Amz-Signature=***'
    """
    text = HIDDEN.sub("***@", text)
    return re.sub(rf"({SIGNATURE.pattern})[^&\s]*", r"\1***", text, flags=re.IGNORECASE)


def has_secrets(address: str) -> bool:
    """Return whether an address names a user, or is signed.

    Args:
        address: As s3://bucket/photos.

    Examples:
        >>> has_secrets("s3://key:secret@bucket/photos"), has_secrets("s3://bucket/a@b.jpg")
        (True, False)
    """
    return HIDDEN.search(address) is not None or SIGNATURE.search(address) is not None


def describe_failure(address: str, error: BaseException) -> str:
    """Return the error of a file system with what helps.

    Args:
        address: As s3://bucket/photos.
        error: That it raised.

    Examples:
        >>> describe_failure("s3://bucket/a.zip", FileNotFoundError("bucket/a.zip"))
        'FileNotFoundError: bucket/a.zip; see whether bucket and path are there'
    """
    text = hide_secrets(f"{type(error).__name__}: {error}")
    remedy = _find_remedy(address.partition("://")[0].lower(), error)
    return f"{text}; {remedy}" if remedy else text


def _find_remedy(protocol: str, error: BaseException) -> str:
    """Return what helps against an error; empty where nothing is known."""
    name, variables = type(error).__name__, CREDENTIALS.get({"gcs": "gs"}.get(protocol, protocol))
    if variables and lacks_credentials(error):
        return f"set {variables}"
    if variables and isinstance(error, PermissionError):
        return f"these credentials may not read it: see {variables}"
    if isinstance(error, FileNotFoundError):
        return "see whether bucket and path are there"
    if name in NO_CONNECTION:
        endpoint = " and AWS_ENDPOINT_URL" if protocol == "s3" else ""
        return f"see the network{endpoint}"
    return ""
