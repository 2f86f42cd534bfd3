"""Python processes of their own, for tests of several devices and of several processes."""

import functools
import json
import os
import socket
import subprocess
import sys
import tempfile


@functools.cache
def programs():
    """A folder where all these processes keep compiled programs, since most of them compile the same ones."""
    return tempfile.TemporaryDirectory(prefix="jaxfit-programs-")


def started(worker, devices, *arguments):
    """A process with so many virtual devices that runs a worker of the tests."""
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": programs().name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    # Another process may still be writing what one reads; then it compiles by itself.
    warnings = ["-W", "error", "-W", "ignore:Error reading persistent compilation cache"]
    command = [sys.executable, *warnings, str(worker), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(process, timeout=400):
    """What a worker found, of its last line."""
    out, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(out.splitlines()[-1])


def port():
    """One that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def of_two(worker, name, *arguments):
    """What two processes with two devices each find."""
    number = port()
    return [told(one) for one in [started(worker, 2, name, number, rank, *arguments) for rank in range(2)]]
