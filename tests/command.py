"""The command line as a user meets it, within the test's process."""

import re

import pytest

from thinwire.commands.cli import main

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    status = ended.value.code
    assert isinstance(status, int)
    return status, out, unhurried(err)


def unhurried(err: str) -> str:
    """Standard error without what a command says of how far it is: a busy machine makes every command a long one."""
    return re.sub(r"^thinwire: \w+: .*\d s\n", "", err, flags=re.MULTILINE)
