"""How far a sandbox is apart from the machine, and the command that starts one."""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from enum import Enum
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]  # the folder of rewards/, whatever the package above it is called


class Isolation(str, Enum):
    """From the most to the least. Every level has seccomp, resource limits and no capabilities besides."""

    bwrap = "bwrap"  # bubblewrap: own namespaces, and a read-only root that holds Python and nothing else
    unshare = "unshare"  # own namespaces of processes, network and IPC; files behind landlock
    rlimits = "rlimits"  # none of that: files and signals behind landlock


def at_least(minimum: Isolation) -> list[Isolation]:
    levels = list(Isolation)
    return levels[: levels.index(minimum) + 1]


def command(level: Isolation, proc: bool = True) -> list[str] | None:
    """None if the machine lacks the program for it. `proc`: bubblewrap also mounts /proc, for /dev/stdin and its like,
    which some containers forbid."""
    readable = _readable()
    needs = "either" if level is Isolation.bwrap else "landlock"
    bootstrap = (
        "import sys, types; package = types.ModuleType('lightning_cispo'); package.__path__ = [sys.argv.pop(1)]; "
        "sys.modules['lightning_cispo'] = package; from lightning_cispo.rewards.sandbox.inside import main; "
        "import json; main(json.loads(sys.argv[1]), sys.argv[2] == 'landlock')"
    )

    def python(root: str) -> list[str]:
        return [_interpreter(), "-I", "-S", "-B", "-X", "utf8", "-c", bootstrap, root, json.dumps(readable), needs]

    if level is Isolation.rlimits:
        return python(str(_ROOT))
    program = shutil.which(level.value)
    if program is None:
        return None
    if level is Isolation.unshare:
        namespaces = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts"]
        return [program, *namespaces, *python(str(_ROOT))]
    own = str(Path(__file__).resolve().parent)
    files = [argument for path in readable if not os.path.islink(path) for argument in ("--ro-bind-try", path, path)]
    links = [a for path in readable if os.path.islink(path) for a in ("--symlink", os.readlink(path), path)]
    devices = [a for name in ("null", "urandom") for a in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")]
    if proc:
        devices += ["--proc", "/proc", "--symlink", "/proc/self/fd", "/dev/fd"]
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            devices += ["--symlink", f"/proc/self/fd/{number}", f"/dev/{name}"]
    rest = ["--ro-bind", own, "/judge/rewards/sandbox", *devices, "--remount-ro", "/", "--chdir", "/"]
    return [
        program,
        "--unshare-all",
        "--die-with-parent",
        "--cap-drop",
        "ALL",
        *files,
        *links,
        *rest,
        *python("/judge"),
    ]


def _readable() -> list[str]:
    """What Python and its standard library need."""
    system = ["/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime"]
    own = [sysconfig.get_path("stdlib"), sysconfig.get_config_var("LIBDIR"), str(Path(_interpreter()).parent)]
    return [path for path in dict.fromkeys([*system, *own]) if path and os.path.lexists(path)]


def _interpreter() -> str:
    """The real one: a virtual environment's is a link to it."""
    return os.path.realpath(sys.executable)
