"""The program itself: what was meant by a word nobody knows, amounts, its version, and Ctrl-C at any moment."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from thinwire.commands.cli import COMMANDS

from ..command import Capture, run
from .test_cli import COLLECTIVE, PREDICT, changed, document


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (("prdict",), "No such command 'prdict'; did you mean predict?"),
        (("-v",), "it is short for --verbose"),
        (("Serve",), "No such command 'Serve'; did you mean serve or"),
        (("xyzzy",), "No such command 'xyzzy'; thinwire --help lists them"),
        (("cluster", "shw", "8xl40s-pcie"), "Did you mean 'show'?"),
        ((*PREDICT, "--btach", "2"), "No such option: --btach; did you mean --batch"),
        (("--versoin",), "did you mean --version?"),
        (changed(PREDICT, "--weights", "pf8"), "Did you mean fp8"),
        (changed(PREDICT, "--model", "lama-3-8b"), "did you mean llama-3-8b or"),
        (changed(PREDICT, "--model", "LLAMA3-8B"), "did you mean llama-3-8b"),
        (changed(PREDICT, "--cluster", "8xL40-pcie"), "did you mean 8xl40s-pcie"),
        (changed(PREDICT, "--scheme", "flashint4"), "did you mean flash-int4"),
        (("cluster", "import", "examples/topo.txt", "--gpu", "l40x"), "did you mean l40 or l40s"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_was_meant(
    capsys: Capture, given: tuple[str, ...], meant: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    status, out, err = run(capsys, *given)
    assert (status, out, err.count("\n")) == (2, "", 1) and meant in err


@pytest.mark.parametrize("command", [name for name in COMMANDS if len(name) > 4 and name[2] != name[3]])
def test_a_command_with_two_letters_changed_about_is_found(capsys: Capture, command: str) -> None:
    _, _, err = run(capsys, command[:2] + command[3] + command[2] + command[4:])
    assert command in err.partition("did you mean")[2]


def test_amounts_are_read_alike_and_understood_in_full(capsys: Capture) -> None:
    for option, given, key in (("--input-tokens", "2k", 2048), ("--input-tokens", "1.5K", 1536)):
        assert document(capsys, *changed(PREDICT, option, given))["input_tokens"] == key
    assert document(capsys, *changed(COLLECTIVE, "--bytes", "16M"))["bytes"] == 16 * 1024**2
    status, out, _ = run(capsys, *changed(PREDICT, "--input-tokens", "2k"))
    assert status == 0 and "2048 tokens" in out
    for option, given in (("--input-tokens", "2q"), ("--input-tokens", "1.3k"), ("--batch", "2k")):
        status, _, err = run(capsys, *changed(PREDICT, option, given))
        assert status == 2 and err.startswith(f"thinwire: {option} must be a whole number; given '{given}'")
    status, out, _ = run(capsys, "predict", "--help")
    assert status == 0 and "2k is 2048" in " ".join(out.split())


def test_version(capsys: Capture) -> None:
    from thinwire import __version__

    assert run(capsys, "--version") == (0, f"thinwire {__version__}\n", "")


def test_the_package_is_a_program_too() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "thinwire", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("thinwire ")


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a process of its own")
@pytest.mark.parametrize("at", ["thinwire.commands.frame.program", "typer", "pydantic", "thinwire.sim.api"])
def test_interrupted_while_importing(at: str) -> None:
    """Ctrl-C at the moment that a module is looked for: no traceback, and whoever started it is told."""
    code = f"""
import os, signal, sys
from thinwire.commands.cli import main
class At:
    def find_spec(self, name, path=None, target=None):
        if name == {at!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, At())
main({list(PREDICT)!r})
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode in (130, -signal.SIGINT), "or by the signal itself, where Python has begun to end"
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a process of its own")
def test_an_interrupt_in_a_finaliser_is_not_lost() -> None:
    """Python prints what is raised there and goes on: `serve` once ended with status 0 after Ctrl-C."""
    code = f"""
import os, signal, sys
from thinwire.commands.cli import main
class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
class At:
    def find_spec(self, name, path=None, target=None):
        if name == "thinwire.commands.serving.serve":
            Last()
sys.meta_path.insert(0, At())
main({["serve", *PREDICT[1:], "--rate", "1", "--duration", "1e6"]!r})
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_before_main_is_called_nothing_is_imported() -> None:
    """What is imported before cannot be interrupted without a traceback: nothing but what Python has loaded anyway."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; had = {{*sys.modules}}; import thinwire.commands.cli; "
    code += "print(*({*sys.modules} - had))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {*done.stdout.split()} == {"thinwire", "thinwire.commands", "thinwire.commands.cli", "__future__"}
