"""No process of ours asks for a foreign name: libraries in C call home past anything that Python could see.

The process runs in a network of its own, whose only name server writes down what it is asked.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 40
"""Where onnxruntime asks at all, it does so within 25 s of its first session."""

NAME_SERVER = """
import fcntl, json, socket, struct, subprocess, sys
from pathlib import Path

control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
up = struct.pack("16sh", b"lo", 0x1 | 0x40)  # IFF_UP, IFF_RUNNING
fcntl.ioctl(control, 0x8914, up)  # SIOCSIFFLAGS
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
server.settimeout(0.2)
Path("/etc/resolv.conf").read_text()  # the one that was mounted
asked, process = set(), subprocess.Popen(sys.argv[2:])
while process.poll() is None:
    try:
        query, client = server.recvfrom(4096)
    except TimeoutError:
        continue
    labels, at = [], 12
    while (length := query[at]):
        labels.append(query[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    asked.add(".".join(labels))
    server.sendto(query[:2] + b"\\x81\\x83" + query[4:6] + bytes(6) + query[12:], client)  # NXDOMAIN
Path(sys.argv[1]).write_text(json.dumps(sorted(asked)))
sys.exit(process.returncode)
"""

OUR_PROCESS = """
import sys, time
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.settings import load_settings

settings = load_settings(None, vector_index={"kind": "qdrant_edge", "path": sys.argv[1] + "/index"})
with open_resources(settings) as resources:
    resources.embedder.embed_queries(["Where is it?"])
    resources.reranker.rerank("Where is it?", ["It is here.", "It is there."])
    time.sleep(float(sys.argv[2]))
"""

CONTROL = """
import socket

try:
    socket.getaddrinfo("asked.example", 443)
except OSError:
    pass
"""


def start_in_own_network(
    folder: Path, program: str, *arguments: str, environment: dict[str, str]
) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a Python program whose names are looked up by a server that notes them in the returned file."""
    folder.mkdir()
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n", encoding="utf-8")
    names = folder / "names.json"
    inside = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    command = ["unshare", "--net", "--mount", "sh", "-c", inside, str(folder / "resolv.conf"), sys.executable]
    command += ["-c", NAME_SERVER, str(names), sys.executable, "-c", textwrap.dedent(program), *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment), names


@pytest.mark.slow
def test_no_process_of_ours_looks_up_a_foreign_name(tmp_path: Path) -> None:
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a network of its own needs root on Linux, and unshare")
    if subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no network namespaces")
    bare = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    bare["HOME"] = str(tmp_path)  # where the library would keep its device id
    runs = {
        "ours": start_in_own_network(
            tmp_path / "ours", OUR_PROCESS, str(tmp_path), str(SECONDS), environment=bare
        ),
        "control": start_in_own_network(tmp_path / "control", CONTROL, environment=bare),
    }
    asked = {}
    for name, (process, names) in runs.items():
        assert process.wait(timeout=240) == 0, name
        asked[name] = json.loads(names.read_text(encoding="utf-8"))
    # onnxruntime alone is no control: it asks on some machines, and on others it never does.
    assert "asked.example" in asked["control"]
    assert asked["ours"] == []
