"""`make demo`: server and agent on this machine, a task of this very repository with an uncommitted change and a
changed parameter, its log as it comes, its phases and its measurements. Leaves nothing behind."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TASKYARD = Path(sys.executable).parent / "taskyard"
START_SECONDS = 60.0


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="taskyard-demo-") as folder:
        place = Path(folder)
        environment = separate_environment(place)
        server = subprocess.Popen(
            [TASKYARD, "up", "--port", str(port_of(environment)), "--data", str(place / "server")],
            env=environment | {"TASKYARD_LOCAL_DIR": str(place / "agent")},
            stdout=(place / "up.log").open("wb"),
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for_worker(environment, server, place / "up.log")
            return show(checkout_with_a_change(place), environment)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=30)


def separate_environment(place: Path) -> dict[str, str]:
    """The demo touches neither the user's settings nor a server that already runs here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKYARD_")}
    return kept | {
        "XDG_CONFIG_HOME": str(place / "config"),
        "TASKYARD_SERVER": f"http://127.0.0.1:{port}",
        "PATH": f"{TASKYARD.parent}{os.pathsep}{os.environ['PATH']}",
    }


def port_of(environment: dict[str, str]) -> int:
    return int(environment["TASKYARD_SERVER"].rpartition(":")[2])


def wait_for_worker(environment: dict[str, str], server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        look = [TASKYARD, "workers"]
        workers = subprocess.run(look, env=environment, capture_output=True, text=True, check=False)
        if workers.returncode == 0 and workers.stdout.strip():
            return
        time.sleep(0.1)
    sys.exit(f"the server did not come up; it said:\n{log.read_text(errors='replace')}")


def checkout_with_a_change(place: Path) -> Path:
    """A clone of this repository in which one line of the example is edited and not committed."""
    clone = place / "checkout"
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
    script = clone / "docs/examples/train.py"
    if not script.exists():
        shutil.copy(REPOSITORY / "docs/examples/train.py", script)
    script.write_text(script.read_text().replace("final weight", "the final weight (an uncommitted change) is"))
    return clone


def show(clone: Path, environment: dict[str, str]) -> int:
    """Runs the task as a newcomer would, and then looks at it."""
    script = ["python", "docs/examples/train.py", "--lr", "0.01"]
    run = ["taskyard", "run", "--wait", "--yes", "--set", "lr=0.1", "--", *script]
    code = say_and_run(run, clone, environment)
    for command in (["story", "@last"], ["metrics", "@last"], ["workers"]):
        code = code or say_and_run(["taskyard", *command], clone, environment)
    print("\nFor yourself: `taskyard up`, and in another terminal `taskyard run -- python train.py`")
    return code


def say_and_run(argv: list[str], folder: Path, environment: dict[str, str]) -> int:
    print(f"\n$ {shlex.join(argv)}", flush=True)
    return subprocess.run([TASKYARD, *argv[1:]], cwd=folder, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
