"""System calls that change a file or a folder by its path, at each version of Landlock's interface."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lightning_cispo.rewards.sandbox import box as boxes
from lightning_cispo.rewards.sandbox import levels, seccomp
from lightning_cispo.rewards.sandbox.box import Box, SandboxError
from lightning_cispo.rewards.sandbox.levels import Isolation
from lightning_cispo.rewards.sandbox.lockdown import landlock_version

# Run inside: every attempt by its name gives 0 or the error number. `F` is a file, `D` an empty folder, in `R`; all
# three can be read and are the user's own. `fd` is open for reading.
ATTEMPTS = """
import ctypes, json, os, struct
R = %r.encode(); F, D, N = R + b"/f", R + b"/d", R + b"/new"
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open(F, os.O_RDONLY)
folder = os.open(R, os.O_RDONLY)
here, times, how = -100, struct.pack("4q", 1, 0, 1, 0), struct.pack("QQQ", 0o1000, 0, 0)
link = b"/proc/self/fd/%%d" %% fd
calls = {
    "truncate": (76, F, 0), "ftruncate": (77, fd, 0), "creat": (85, F, 0o600), "creat new": (85, N, 0o600),
    "open truncating": (2, F, 0o1000, 0), "open truncating, mode 3": (2, F, 0o1003, 0),
    "open for nothing": (2, F, 0o3, 0), "open for writing": (2, F, 0o1001, 0), "open for both": (2, F, 0o2, 0),
    "open creating": (2, N, 0o100, 0o600), "open creating to write": (2, N, 0o102, 0o600),
    "openat truncating": (257, here, F, 0o1000, 0), "openat truncating, mode 3": (257, here, F, 0o1003, 0),
    "openat below a folder": (257, folder, b"f", 0o1000, 0), "openat creating": (257, folder, b"new", 0o101, 0o600),
    "open again truncating": (2, link, 0o1000, 0), "open again for writing": (2, link, 0o2, 0),
    "a file without a name": (2, R, 0o20200002, 0o600), "openat2 truncating": (437, here, F, how, 24),
    "rename": (82, F, N), "renameat": (264, here, F, here, N), "renameat2": (316, here, F, here, N, 0),
    "exchange": (316, here, F, here, D, 2), "unlink": (87, F), "unlinkat": (263, here, F, 0),
    "rmdir": (84, D), "rmdir at": (263, here, D, 0x200), "link": (86, F, N), "linkat": (265, here, F, here, N, 0),
    "linkat by descriptor": (265, fd, b"", here, N, 0x1000), "symlink": (88, F, N), "symlinkat": (266, F, here, N),
    "mkdir": (83, N, 0o700), "mkdirat": (258, here, N, 0o700), "mknod": (133, N, 0o10600, 0),
    "mknodat": (259, here, N, 0o10600, 0), "chmod": (90, F, 0o777), "fchmod": (91, fd, 0o777),
    "fchmodat": (268, here, F, 0o777), "fchmodat2": (452, here, F, 0o777, 0), "chown": (92, F, 1, 1),
    "fchown": (93, fd, 1, 1), "lchown": (94, F, 1, 1), "fchownat": (260, here, F, 1, 1, 0),
    "utime": (132, F, times), "utimes": (235, F, times), "futimesat": (261, here, F, times),
    "utimensat": (280, here, F, times, 0), "futimens": (280, fd, None, times, 0),
    "setxattr": (188, F, b"user.a", b"1", 1, 0), "lsetxattr": (189, F, b"user.a", b"1", 1, 0),
    "fsetxattr": (190, fd, b"user.a", b"1", 1, 0), "removexattr": (197, F, b"user.kept"),
    "lremovexattr": (198, F, b"user.kept"), "fremovexattr": (199, fd, b"user.kept"),
    "setxattrat": (463, here, F, 0, b"user.a", struct.pack("QII", 0, 0, 0), 16),
    "removexattrat": (466, here, F, 0, b"user.kept"), "file_setattr": (469, here, F, bytes(24), 24, 0),
    "fallocate": (285, fd, 3, 0, 4), "flags": (16, fd, 0x40086602, struct.pack("q", 0x10)),
    "attributes": (16, fd, 0x401C5820, bytes(28)), "copy_file_range": (326, fd, None, fd, None, 1, 0),
    "lock": (73, fd, 2), "lease": (72, fd, 1024, 0), "signal owner": (72, fd, 8, 1), "notify": (72, folder, 1026, 4),
    "acct": (163, F), "swapon": (167, F, 0), "chroot": (161, R), "pivot_root": (155, R, D),
    "mount": (165, R, D, None, 4096, None), "umount": (166, R, 0), "open_tree": (428, here, R, 1),
    "move_mount": (429, here, R, here, D, 0), "fsopen": (430, b"tmpfs", 0), "fspick": (433, here, R, 0),
    "mount_setattr": (442, here, R, 0, bytes(32), 32), "quotactl": (179, 0, R, 0, None),
    "open by handle": (304, folder, bytes(32), 0), "mq_open": (240, b"rewards", 0o102, 0o600, None),
    "memfd": (319, b"m", 0), "io_uring": (425, 8, bytes(256)), "sync": (74, fd), "ptrace": (101, 0, 0, 0, 0),
    "unshare": (272, 0x10000000), "execve": (59, b"/bin/true", None, None),
    "execveat": (322, here, b"/bin/true", 0, 0, 0),
    "socket": (41, 1, 1, 0), "datagrams": (53, 1, 2, 0, bytes(8)), "inet pair": (53, 2, 1, 0, bytes(8)),
    "prctl": (157, 38, 0, 0, 0, 0), "kill": (62, os.getppid(), 0), "prlimit": (302, os.getppid(), 7, None, bytes(16)),
    "landlock": (444, None, 0, 1), "seccomp": (317, 1, 0, None), "bpf": (321, 0, bytes(64), 64),
    "no such call": (9999,),
}
found = {}
for name, (number, *arguments) in calls.items():
    ctypes.set_errno(0)
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    found[name] = ctypes.get_errno() if libc.syscall(ctypes.c_long(number), *wide) < 0 else 0
print(json.dumps(found))
"""
VERSIONS = [version for version in range(1, 8) if version <= landlock_version()]


def snapshot(folder: Path) -> list[Any]:
    found = []
    for path in sorted([folder, *folder.rglob("*")]):
        facts = path.lstat()
        attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
        body = path.read_bytes() if path.is_file() else b""
        found.append([path.name, body, facts.st_mode, facts.st_uid, facts.st_nlink, facts.st_mtime_ns, attributes])
    return found


def run(level: Isolation, source: str, monkeypatch: pytest.MonkeyPatch, version: int, readable: Path) -> str:
    """What a program prints in a sandbox that takes Landlock's version to be `version` at most."""
    started = levels.command(level)
    if started is None:
        pytest.skip(f"no {level.value} on this machine")
    cap = "from lightning_cispo.rewards.sandbox import lockdown as l; v = l.landlock_version; "
    cap += f"l.landlock_version = lambda: min({version}, v()); "
    known = levels._readable()
    monkeypatch.setattr(levels, "_readable", lambda: [*known, str(readable)])
    words = levels.command(level)
    assert words
    words = [word.replace("import json; main(", f"{cap}import json; main(") for word in words]
    assert any(cap in word for word in words)
    monkeypatch.setattr(boxes, "command", lambda *_: words)
    try:
        box = Box(level)
    except SandboxError as error:
        pytest.skip(f"no sandbox of level {level.value}: {error}")
    try:
        child = box.run("program", 256, 60.0, b"")
        child.send(source.encode())
        output = child.output(1 << 20)
        child.wait()
        complaint = child.complaint()
        child.close()
    finally:
        box.close()
    assert not complaint
    return output.decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("kept")
    try:
        os.setxattr(tmp_path / "f", "user.kept", b"1")
    except OSError:
        pass  # a file system without
    return tmp_path


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("level", list(Isolation), ids=lambda level: level.value)
def test_nothing_is_changed_by_its_path(
    level: Isolation, version: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(folder)
    found = json.loads(run(level, ATTEMPTS % str(folder), monkeypatch, version, folder))
    assert [name for name, code in found.items() if code == 0] == []
    assert snapshot(folder) == before


def test_what_the_filter_does_not_know_is_refused() -> None:
    """The list is of what is allowed: a number that stands nowhere in it reaches a refusal."""
    listed = {int(call.partition(":")[2]) for calls in seccomp.ALLOWED.values() for call in calls.split()}
    checked = {2, 16, 53, 56, 72, 257, 302}  # by their arguments
    for number in range(600):
        assert _verdict(number) == ("allow" if number in listed else "refuse"), number
        assert not (number in listed and number in checked)


def _verdict(number: int) -> str:
    """Run the filter on a call whose arguments are all ones."""
    filter = seccomp.program()
    words = [filter[at : at + 8] for at in range(0, len(filter), 8)]
    data = {0: number, 4: 0xC000003E, 16: 0xFFFFFFFF, 24: 0xFFFFFFFF, 32: 0xFFFFFFFF}
    at, register = 0, 0
    while True:
        code = int.from_bytes(words[at][:2], "little")
        true, false, value = words[at][2], words[at][3], int.from_bytes(words[at][4:], "little")
        if code == 0x06:
            return {0x7FFF0000: "allow", 0x80000000: "kill"}.get(value, "refuse")
        if code == 0x20:
            register = data[value]
        elif code == 0x54:
            register &= value
        else:
            holds = {0x15: register == value, 0x35: register >= value, 0x45: bool(register & value)}[code]
            at += true if holds else false
        at += 1


@pytest.mark.parametrize("level", list(Isolation), ids=lambda level: level.value)
def test_what_right_programs_do_is_allowed(level: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "import os, sys, socket, threading, time, resource, random, signal, tempfile, select\n"
        "open(os.devnull, 'w').write('x')\n"
        "sys.stderr = open('/dev/null', 'w')\n"
        "a, b = socket.socketpair(); a.setblocking(False); b.send(b'x'); assert a.recv(1) == b'x'\n"
        "assert not os.isatty(0)\n"
        "t = threading.Thread(target=time.sleep, args=(0.01,)); t.start(); t.join()\n"
        "resource.setrlimit(resource.RLIMIT_STACK, (resource.getrlimit(resource.RLIMIT_STACK)[0], -1))\n"
        "os.urandom(8); random.random(); os.cpu_count(); os.getcwd(); os.listdir('/usr/lib'); os.stat('/usr')\n"
        "r, w = os.pipe(); os.set_blocking(r, False); os.set_inheritable(w, True); select.select([], [w], [], 1)\n"
        "signal.setitimer(signal.ITIMER_REAL, 100); signal.alarm(0)\n"
        "print('done')\n"
    )
    assert run(level, source, monkeypatch, 99, tmp_path) == "done\n"
