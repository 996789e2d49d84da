"""What runs inside a sandbox: a parent that has nothing to hide forks one locked-down child for each run.

The parent's only way out is its control socket (descriptor 0, of packets). A run comes as one message with three
descriptors: what the child reads, what it writes, and where it says which exception ended it. A child that is not
done when the next message comes is killed; its exit code, negative for a signal, is the answer. Standard library only.
"""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket
import sys
from typing import Any

from lightning_cispo.rewards.sandbox import candidate, lockdown, seccomp, tests

# So that imports of judged code cost nothing.
PRELOADED = (
    "bisect cmath collections copy datetime decimal fractions functools hashlib heapq io itertools json math operator "
    "random re statistics string threading time typing"
).split()
STOP = b"."
_RUNS = {"candidate": candidate.serve, "program": candidate.run_program, "tests": tests.serve}


def main(readable: list[str], needs_landlock: bool) -> None:
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
        _child(order, descriptors, instructions)
    for descriptor in descriptors:
        os.close(descriptor)
    ended = os.pidfd_open(child)
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


def _child(order: dict[str, Any], descriptors: list[int], instructions: bytes) -> None:
    code = 1
    try:
        lockdown.die_with_parent(signal.SIGKILL)
        reader, writer, errors = (os.dup2(d, 10 + i, inheritable=False) for i, d in enumerate(descriptors))
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.closerange(3, 10)
        os.closerange(13, 1024)
        lockdown.limit_resources(order["memory_mb"], order["cpu_s"])
        seccomp.install(instructions)
        code = _RUNS[order["run"]](reader, writer, errors)
    finally:
        os._exit(code)


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    size = array.array("i").itemsize
    try:
        message, ancillary, _, _ = control.recvmsg(4096, socket.CMSG_LEN(3 * size))
    except ConnectionError:
        return b"", []
    descriptors = array.array("i")
    for _, _, data in ancillary:
        descriptors.frombytes(data[: len(data) - len(data) % size])
    return message, list(descriptors)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2] == "landlock")
