"""The isolated process: reads calls, runs them one at a time, answers. Started by `rewards.process`, never by hand.

It ends with its parent, whichever way that ends: the kernel's parent-death signal comes even while a C
function holds the interpreter lock, a watchdog on the request pipe also where there is no such signal.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import select
import signal
import sys
import threading
from typing import Any

from lightning_cispo.rewards.channel import Channel, ChannelClosed

_PR_SET_PDEATHSIG = 1


def main(memory_mb: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = os.dup(0), os.dup(1)
    # Whatever the called code prints must not end up between two messages.
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    _die_with_parent(requests)
    channel = Channel(requests, answers)
    loaded: set[str] = set()
    while True:
        try:
            call = channel.receive()
        except ChannelClosed:
            return
        failure = _load(set(call["modules"]) - loaded, memory_mb)
        channel.send(failure)
        if failure:
            continue
        loaded |= set(call["modules"])
        answer = _run(call["function"], call["args"])
        try:
            channel.send(answer)
        except (TypeError, ValueError, RecursionError) as error:
            channel.send({"raised": f"returned what JSON can't hold: {_describe(error)}"})


def _die_with_parent(requests: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_exit_on_hangup, args=(requests,), daemon=True).start()


def _exit_on_hangup(descriptor: int) -> None:
    poller = select.poll()
    poller.register(descriptor, 0)  # hangup and error are always reported
    poller.poll()
    os._exit(0)


def _load(modules: set[str], memory_mb: int) -> dict[str, str]:
    """Imports outside the call's deadline and memory limit: what a library weighs is not the answer's fault.

    Returns {} or what was raised.
    """
    if not modules:
        return {}
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    try:
        for module in sorted(modules):
            importlib.import_module(module)
    except BaseException as error:
        return {"raised": _describe(error)}
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            idle = int(file.read().split()[0]) * resource.getpagesize()
        limit = idle + (memory_mb << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    return {}


def _run(path: str, args: list[Any]) -> dict[str, Any]:
    module, _, name = path.partition(":")
    try:
        return {"result": getattr(sys.modules[module], name)(*args)}
    except MemoryError:
        return {"memory": True}
    except BaseException as error:  # math-verify's own timeout is no Exception, nor is SystemExit
        return {"raised": _describe(error)}


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:1000]
