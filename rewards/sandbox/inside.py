"""What runs inside a sandbox: a parent that has nothing to hide forks one locked-down child for each run.

The parent's only way out is its control socket (descriptor 0, of packets). A run comes as one message with three
descriptors: what the child reads, what it writes, and where it says which exception ended it; for a program also its
standard input. A descriptor of the child goes back. A child that is not done when the next message comes is killed; its
exit code, negative for a signal, is the answer. Standard library only.
"""

from __future__ import annotations

import array
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from lightning_cispo.rewards.sandbox import candidate, lockdown, program, seccomp, tests

# So that imports of judged code cost nothing.
PRELOADED = (
    "bisect cmath collections copy datetime decimal fractions functools hashlib heapq io itertools json math operator "
    "random re statistics string threading time typing"
).split()
STOP = b"."
_RUNS: dict[str, Callable[..., int]] = {"candidate": candidate.serve, "program": program.run, "tests": tests.serve}


def main(readable: list[str], needs_landlock: bool) -> None:
    """Serve runs until the control socket is closed. In a program's process raises SystemExit once that is over."""
    for module in PRELOADED:
        __import__(module)
    lockdown.die_with_parent(signal.SIGKILL)
    lockdown.drop_privileges()
    version = lockdown.landlock_version()
    if version:
        lockdown.confine_files(readable, version)
    elif needs_landlock:
        raise OSError("the kernel has no landlock")
    instructions = seccomp.program()
    gc.collect()
    gc.freeze()  # a child's collections leave what it shares with this process alone
    control = socket.socket(fileno=0)
    control.sendall(b"r")
    while True:
        message, descriptors = _receive(control)
        if not message:
            return
        if message == STOP:
            continue  # the child had just ended
        _run(control, json.loads(message), descriptors, instructions)


def _run(control: socket.socket, order: dict[str, Any], descriptors: list[int], instructions: bytes) -> None:
    child = os.fork()
    if child == 0:
        code = _child(order, descriptors, instructions)
        control.detach()  # its number is the program's standard input now
        raise SystemExit(code)
    for descriptor in descriptors:
        os.close(descriptor)
    ended = os.pidfd_open(child)
    socket.send_fds(control, [b"s"], [ended])
    poller = select.poll()
    poller.register(ended, select.POLLIN)
    poller.register(control, select.POLLIN)
    if any(descriptor == control.fileno() for descriptor, _ in poller.poll()):
        control.recv(len(STOP))
    # Also after its end: its number stays taken until it is waited for.
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(ended)
    control.sendall(b"%4d" % os.waitstatus_to_exitcode(status))


def _child(order: dict[str, Any], descriptors: list[int], instructions: bytes) -> int:
    """The exit code of a program, whose interpreter is to end as Python's do; others end here."""
    try:
        lockdown.die_with_parent(signal.SIGKILL)
        own = [os.dup2(d, 10 + i, inheritable=False) for i, d in enumerate(descriptors)]
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.closerange(3, 10)
        os.closerange(10 + len(own), 1024)
        lockdown.limit_resources(order["memory_mb"], order["cpu_s"])
        seccomp.install(instructions)
        code = _RUNS[order["run"]](*own)
    except BaseException:
        os._exit(1)
    if order["run"] != "program":
        os._exit(code)
    return code


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    size = array.array("i").itemsize
    try:
        message, ancillary, _, _ = control.recvmsg(4096, socket.CMSG_LEN(4 * size))
    except ConnectionError:
        return b"", []
    descriptors = array.array("i")
    for _, _, data in ancillary:
        descriptors.frombytes(data[: len(data) - len(data) % size])
    return message, list(descriptors)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2] == "landlock")
