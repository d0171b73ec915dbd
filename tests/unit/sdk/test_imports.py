"""The SDK and the command line run where there is no POSIX."""

from __future__ import annotations

import subprocess
import sys

POSIX_ALONE = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
CODE = f"""
import asyncio, getpass, importlib, pkgutil, shutil, subprocess, sys, tempfile
import argcomplete, httpx, platformdirs, rich.console, rich.live, rich.table, rich_argparse, truststore
# what others have of POSIX for this system is loaded; from here on it is our own modules that could need it
sys.modules.update(dict.fromkeys({POSIX_ALONE}))
import taskyard
from taskyard.cli.app import MODULES, execute
for module in pkgutil.walk_packages(taskyard.__path__, "taskyard."):
    importlib.import_module(module.name)
    print(module.name)
for name in [name for module, names in MODULES.items() if module.startswith("taskyard.") for name in names]:
    if name != "server":
        try:
            execute([name, "--help"])
        except SystemExit as end:
            assert not end.code
"""


def test_every_module_and_every_help_does_without_posix() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert {"taskyard.snapshot.git", "taskyard.cli.up", "taskyard._task"} <= set(done.stdout.split())
