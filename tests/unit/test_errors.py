from __future__ import annotations

import errno
from pathlib import Path

import pytest

from trtllm_forge.errors import CheckpointError, reason_of, unreadable, unwritable

PATH = Path("/srv/out/a.json")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(OSError(errno.EACCES, "Permission denied"), "permission denied", id="no-file"),
        pytest.param(
            OSError(errno.EACCES, "Permission denied", str(PATH)), "permission denied", id="itself"
        ),
        pytest.param(
            OSError(errno.EACCES, "Permission denied", "/srv/out/.a.json.1.part"),
            "permission denied",
            id="scratch-file",
        ),
        pytest.param(
            OSError(errno.ENOTDIR, "Not a directory", "/srv/out"),
            "/srv/out: not a directory",
            id="folder-above",
        ),
        pytest.param(
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            "it is not UTF-8 text",
            id="encoding",
        ),
        pytest.param(ValueError("Expecting value"), "Expecting value", id="any-other"),
    ],
)
def test_reason_names_the_file_unless_the_message_does(error: Exception, reason: str) -> None:
    assert reason_of(error, PATH) == reason


def test_file_that_cannot_be_read_or_written_is_an_error_of_the_kind_that_is_asked_for() -> None:
    error = OSError(errno.EACCES, "Permission denied", str(PATH))
    read, written = unreadable(PATH, error, CheckpointError), unwritable(PATH, error, hint="df")
    assert (read.what, read.why, read.exit_code) == (
        "/srv/out/a.json cannot be read",
        "permission denied",
        4,
    )
    assert (written.what, written.hint, written.exit_code) == (
        "/srv/out/a.json cannot be written",
        "df",
        2,
    )
