"""Processes that cost a fork, not a new interpreter: for scripts that `shelf.run` starts, never for pytest itself."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO


@dataclass
class Child:
    """A process, and what it prints."""

    pid: int
    stdout: TextIO

    def waited(self) -> int:
        """Wait for its end; returns its exit status, negative for a signal."""
        self.stdout.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def ended(self) -> str:
        """Return all that it prints; it has to succeed."""
        printed = self.stdout.read()
        if self.waited():
            raise SystemExit(f"the process failed: {printed}")
        return printed

    def killed(self) -> list[str]:
        """Kill it by SIGKILL; returns the lines that it had printed and that were not read yet."""
        os.kill(self.pid, signal.SIGKILL)
        lines = self.stdout.readlines()
        if self.waited() != -signal.SIGKILL:
            raise SystemExit("the process had ended by itself")
        return lines


def fork(work: Callable[[], None]) -> Child:
    """Run `work` in a process of its own."""
    ours, theirs = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return Child(pid, os.fdopen(ours))
    status = 1
    try:
        os.close(ours)
        os.dup2(theirs, 1)
        work()
        sys.stdout.flush()
        status = 0
    except BaseException:  # whatever it is, it ends this process alone
        traceback.print_exc()
    os._exit(status)
