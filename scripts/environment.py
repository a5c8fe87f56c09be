"""
The project's own Python environment, `.venv`, made on first use from locked versions.

The scripts in this folder start on whatever `python3` a machine has and go on in `.venv`; this
module therefore uses nothing but the standard library, in words that an old Python understands.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
OLDEST = (3, 11)

_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
_SERVED_BY = {"run": ("run", "test"), "test": ("test",)}


def answer_help(text: str) -> None:
    """End with this text where the command line asks for help, before anything is installed."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(text.strip())
        sys.exit()


def enter(purpose: str) -> None:
    """
    Go on inside `.venv`, with everything installed that `purpose` needs, "run" or "test".

    Returns at once where that is so already; otherwise makes or completes the environment and
    starts the running script again inside it. Ends with a readable message when that fails, and
    with status 130 on Ctrl-C.
    """
    if is_complete(purpose):
        if Path(sys.prefix).resolve() != VENV.resolve():
            _start_again(str(_PYTHON))
        return
    if sys.version_info < OLDEST:
        _start_again(_newer_python())
    print(f"Installing what is needed to {purpose} into {VENV} …", file=sys.stderr, flush=True)
    try:
        _install(purpose)
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, subprocess.CalledProcessError) as exc:
        sys.exit(
            f"The environment could not be made: {exc}\n"
            "The lines above say why. Nothing can be installed without a network or without pip;\n"
            "Debian and Ubuntu need the package python3-venv as well."
        )
    _start_again(str(_PYTHON))


def is_complete(purpose: str) -> bool:
    """Tell whether `.venv` has what `purpose` needs; what "test" installs includes all of "run"."""
    return _PYTHON.exists() and any(_is_installed(name) for name in _SERVED_BY[purpose])


def _is_installed(purpose: str) -> bool:
    stamp = _stamp(purpose)
    return stamp.exists() and stamp.read_text() == _fingerprint(purpose)


def _stamp(purpose: str) -> Path:
    return VENV / f".installed-{purpose}"


def _fingerprint(purpose: str) -> str:
    """Return what the environment has to be made anew for, when it changes."""
    digest = hashlib.sha256()
    for file in (_lock(purpose), ROOT / "pyproject.toml"):
        digest.update(file.read_bytes())
    return f"{ROOT} {digest.hexdigest()}"


def _lock(purpose: str) -> Path:
    return ROOT / "scripts" / "locked" / f"{purpose}.txt"


def _install(purpose: str) -> None:
    uv = shutil.which("uv")
    if not _PYTHON.exists() or not (uv or _has_pip()):
        # Cleared, because uv makes environments without pip, and an interrupted venv leaves halves.
        if uv:
            _call(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(VENV))
        else:
            _call(sys.executable, "-m", "venv", "--clear", str(VENV))
    if uv:
        install = [uv, "pip", "install", "--quiet", "--python", str(_PYTHON)]
    else:
        install = [str(_PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _call(*install, "--require-hashes", "-r", str(_lock(purpose)))
    _call(*install, "--no-deps", "--editable", str(ROOT))
    _stamp(purpose).write_text(_fingerprint(purpose))


def _has_pip() -> bool:
    command = [str(_PYTHON), "-m", "pip", "--version"]
    silent = subprocess.DEVNULL
    return subprocess.run(command, stdout=silent, stderr=silent).returncode == 0


def _call(*command: str) -> None:
    """Run a command in a session of its own: Ctrl-C is this script's, which ends it silently."""
    process = subprocess.Popen(command, cwd=str(ROOT), start_new_session=True)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        raise
    if status:
        raise subprocess.CalledProcessError(status, command)


def _newer_python() -> str:
    for minor in range(20, OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.run([found, "-c", ""], stderr=subprocess.DEVNULL).returncode == 0:
            return found
    sys.exit(
        "Python {}.{} or newer is needed; this is {}, and no newer one is on the PATH.".format(
            *OLDEST, sys.version.split()[0]
        )
    )


def _start_again(python: str) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "nt":
        sys.exit(subprocess.run([python, *sys.argv]).returncode)
    os.execv(python, [python, *sys.argv])
