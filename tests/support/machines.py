"""Machines of their own on this one: network, processes and home apart, and commands as by SSH.

Each is a set of Linux namespaces with an address in a network that leads nowhere, so that `ray up`,
which starts Ray on addresses and ends it by the name of its processes, can be tried in earnest.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

NETWORK = "10.77.0"
SERVER = """
import os, socketserver, subprocess, sys

class Commands(socketserver.StreamRequestHandler):
    def handle(self):
        command = self.rfile.readline().decode().rstrip("\\n").replace("\\0", "\\n")
        done = subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.wfile.write(done.stdout + b"\\n%d" % done.returncode)

socketserver.ThreadingTCPServer.allow_reuse_address = True
with socketserver.ThreadingTCPServer((sys.argv[1], 22), Commands) as server:
    server.serve_forever()
"""
SSH = """#!{python}
import socket, sys

words = iter(sys.argv[1:])
for word in words:
    if "@" in word and not word.startswith("-"):
        address = word.split("@")[1]
        break
    if word in ("-o", "-i", "-L"):
        next(words)
command = " ".join(words).replace("\\n", "\\0")
with socket.create_connection((address, 22), timeout=10) as line:
    line.settimeout(None)
    line.sendall(command.encode() + b"\\n")
    answer = b"".join(iter(lambda: line.recv(65536), b""))
out, _, code = answer.rpartition(b"\\n")
sys.stdout.buffer.write(out)
sys.exit(int(code))
"""
RSYNC = """#!/bin/bash
source="${{@: -2:1}}" target="${{@: -1}}"
address="${{target#*@}}" path="${{target#*:}}"
home="{place}/${{address%%:*}}"
path="${{path/#\\~/$home}}"
mkdir -p "$(dirname "$path")"
if [[ -d $source ]]; then mkdir -p "$path" && source="${{source%/}}/."; fi
cp -r "$source" "$path"
"""


def why_not() -> str:
    """Return what is missing for machines of their own, or ''."""
    missing = [name for name in ("ip", "ss", "unshare", "mount") if not shutil.which(name)]
    if missing:
        return f"{', '.join(missing)} is not installed"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--mount-proc", "true"], check=False
    )
    return "" if tried.returncode == 0 else "making namespaces needs the rights of root"


@contextmanager
def machines(place: Path, count: int):
    """Yield the addresses of some machines.

    `place` gets a home for each address, and bin/, with what stands in for ssh and rsync.
    """
    addresses = [f"{NETWORK}.{10 + number}" for number in range(count)]
    programs = place / "bin"
    programs.mkdir()
    for name, text in {"ssh": SSH, "rsync": RSYNC}.items():
        (programs / name).write_text(text.format(python=sys.executable, place=place))
        (programs / name).chmod(stat.S_IRWXU)
    (place / "server.py").write_text(SERVER)
    with ExitStack() as stack:
        switch = stack.enter_context(_network(f"rk{os.getpid()}s"))
        ip("-n", switch, "link", "add", "br0", "type", "bridge")
        ip("-n", switch, "link", "set", "br0", "up")
        for number, address in enumerate(addresses):
            stack.enter_context(_network(_name(address)))
            _connect(_name(address), switch, address, number)
            stack.enter_context(_machine(place, address))
        for address in addresses:
            _wait_for(place, address)
        yield addresses


def start(place: Path, address: str, command: str) -> subprocess.Popen[str]:
    """Start a command on a machine."""
    return subprocess.Popen(
        ["ip", "netns", "exec", _name(address), place / "bin" / "ssh", f"x@{address}", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(place: Path, address: str, command: str, seconds: float) -> subprocess.CompletedProcess:
    """Run a command on a machine."""
    process = start(place, address, command)
    try:
        out, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return subprocess.CompletedProcess(command, process.returncode, out)


def _wait_for(place: Path, address: str) -> None:
    end_of_patience = time.monotonic() + 20
    while run(place, address, "true", 10).returncode:
        assert time.monotonic() < end_of_patience, f"{address} does not answer"
        time.sleep(0.05)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def _network(name: str):
    ip("netns", "add", name)
    try:
        yield name
    finally:
        ip("netns", "del", name)


def _name(address: str) -> str:
    return f"rk{os.getpid()}m{address.rpartition('.')[2]}"


def _connect(name: str, switch: str, address: str, number: int) -> None:
    here, there = f"rkv{os.getpid()}{number}"[:15], f"rks{number}"
    ip("link", "add", here, "netns", name, "type", "veth", "peer", "name", there, "netns", switch)
    ip("-n", name, "link", "set", here, "name", "eth0")
    ip("-n", switch, "link", "set", there, "master", "br0", "up")
    ip("-n", name, "link", "set", "lo", "up")
    ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
    ip("-n", name, "link", "set", "eth0", "up")
    ip("-n", name, "route", "add", "default", "via", f"{NETWORK}.1")  # Ray asks for its address


@contextmanager
def _machine(place: Path, address: str):
    home = place / address
    (home / "tmp").mkdir(parents=True)
    first = (  # the first process of a machine also buries those whose parents are gone
        f"mkdir -p /tmp/ray && mount --bind {home}/tmp /tmp/ray"
        f" && mount -t tmpfs -o size=600m tmpfs /dev/shm && cd {home}"
        f" && {{ {sys.executable} {place}/server.py {address} &"
        " while :; do wait -n || sleep 0.2; done; }"
    )
    of_tests = ("RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    environment = {key: value for key, value in os.environ.items() if key not in of_tests}
    process = subprocess.Popen(
        [
            *("ip", "netns", "exec", _name(address)),
            *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("bash", "-c", first),
        ],
        env={**environment, "HOME": str(home), "PATH": f"{place}/bin:{environment['PATH']}"},
        stdin=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()  # `unshare` hears no SIGTERM; all processes of the machine end with it
        process.wait()
