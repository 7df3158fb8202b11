"""The one way out for files: under a temporary name beside the target, renamed into place when it is whole.

Whatever ends the writing (a full disk, Ctrl-C, a signal that the command line turns into an exception) removes the
temporary file; the target is then what it was. What a kill -9 leaves goes when the same target is written again. No
fsync: after a power cut a file may be torn.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; when the block ends without an exception it becomes `path`.

    A pipe or a device is written as it is, for nothing can take its place. OSError where the folder cannot be written.
    """
    target = Path(path)
    if os.path.exists(target) and not os.path.isfile(target):
        yield target
        return
    target = Path(os.path.realpath(target))  # through a link, which stays
    rough = target.with_name(f".{target.name[:100]}.{os.getpid()}.tmp")
    _sweep(target)
    try:
        yield rough
        with suppress(OSError):  # a new file has the rights that are usual here, one replaced keeps its own
            os.chmod(rough, target.stat().st_mode & 0o7777)
        os.replace(rough, target)
    except BaseException:
        with suppress(OSError):
            rough.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """UTF-8 text, whole or not at all. OSError as `replacing`."""
    with replacing(path) as rough, open(rough, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def _sweep(target: Path) -> None:
    """Remove what writers of the same target left that are no more."""
    for left in target.parent.glob(f".{_plain(target.name[:100])}.*.tmp"):
        pid = left.name.split(".")[-2]
        if pid.isdecimal() and int(pid) != os.getpid() and not os.path.exists(f"/proc/{pid}"):
            with suppress(OSError):
                left.unlink()


def _plain(name: str) -> str:
    """A name whose `*`, `?` and `[` mean themselves."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
