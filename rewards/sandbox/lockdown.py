"""What a process gives up for good before it meets judged code: capabilities, files, resources."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from collections.abc import Sequence

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
# File rights that each version of Landlock's interface knows: 13 at first, then refer, truncate, device ioctls.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_STACK_BYTES = 64 << 20  # room for deep recursion

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(signal: int) -> None:
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0), "parent-death signal")


def drop_privileges() -> None:
    """No capabilities, and no way to any by executing a file."""
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    header, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)
    _checked(_libc.capset(header, nothing), "capset")


def landlock_version() -> int:
    """Of the kernel's interface; 0 where there is none."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)))


def confine_files(readable: Sequence[str], version: int) -> None:
    """Only what lies below `readable` can be read, and nothing but /dev/null written. Needs no_new_privs."""
    rights = (1 << _FILE_RIGHTS[min(version, 5)]) - 1
    network = 0b11 if version >= 4 else 0
    scoped = 0b11 if version >= 6 else 0  # no signals and no abstract sockets to the outside
    attributes = struct.pack("QQQ", rights, network, scoped)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = _libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    _checked(min(0, ruleset), "landlock")
    for path in (*readable, os.devnull):
        if not os.path.exists(path):
            continue
        allowed = _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0)
        allowed |= _WRITE_FILE if path == os.devnull else 0
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("<Qi", allowed, descriptor)
        _checked(_libc.syscall(_ADD_RULE, ruleset, 1, rule, 0), f"landlock: {path}")
        os.close(descriptor)
    _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0), "landlock")
    os.close(ruleset)


def limit_resources(memory_mb: int, cpu_s: int) -> None:
    """`memory_mb` MB of address space (the interpreter's 30 included), `cpu_s` seconds; no file written, no dump."""
    limits = {
        resource.RLIMIT_AS: memory_mb << 20,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_STACK: _STACK_BYTES,
    }
    for kind, limit in limits.items():
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        # Programs may raise their stack's limit: the address space bounds it.
        resource.setrlimit(kind, (limit, hard if kind == resource.RLIMIT_STACK else limit))


def _checked(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
