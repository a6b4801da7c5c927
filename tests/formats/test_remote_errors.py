"""Errors of file systems at addresses name what helps."""

from __future__ import annotations

import pytest

from pipeline.data.webdataset import WebDataset
from pipeline.errors import UserError
from pipeline.formats.remote_errors import describe_failure, lacks_credentials


class NoCredentialsError(Exception):
    """Of the name that botocore gives it."""


class EndpointConnectionError(Exception):
    """Of the name that botocore gives it."""


@pytest.mark.parametrize(("address", "error", "expected"), [
    ("s3://b/a", NoCredentialsError("none"), "NoCredentialsError: none; set AWS_ACCESS_KEY_ID and"),
    ("gs://b/a", NoCredentialsError("none"), "none; set GOOGLE_APPLICATION_CREDENTIALS=FILE"),
    ("gcs://b/a", PermissionError("no"), "no; these credentials may not read it: see GOOGLE_APPL"),
    ("s3://b/a", PermissionError("no"), "no; these credentials may not read it: see AWS_ACCESS"),
    ("s3://b/a", FileNotFoundError("a"), "FileNotFoundError: a; see whether bucket and path are"),
    ("s3://b/a", EndpointConnectionError("x"), "x; see the network and AWS_ENDPOINT_URL"),
    ("https://h/a", PermissionError("no"), "PermissionError: no"),
])  # fmt: skip
def test_a_failure_names_what_helps(address: str, error: Exception, expected: str) -> None:
    text = describe_failure(address, error)
    assert expected in text
    if address.startswith("https"):
        assert text == expected
    assert lacks_credentials(error) is isinstance(error, NoCredentialsError)


@pytest.mark.parametrize("end", ["", "/", "/*.tar"])
def test_shards_of_a_bucket_that_is_not_there(end: str) -> None:
    with pytest.raises(UserError, match=r"no shard in .* is not there: see whether bucket and"):
        WebDataset(f"memory://no-such-bucket{end}")
