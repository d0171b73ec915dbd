"""Runs a script once for each command line, each in a fork: the imports are paid once.

`python run_all.py SCRIPT` with lines as JSON on standard input; answers what each printed, or how it failed.
"""

import contextlib
import io
import json
import os
import runpy
import sys
import traceback
from pathlib import Path

SCRIPT = Path(sys.argv[1])
sys.path.insert(0, str(SCRIPT.parent))
HEAVY = {"hydra": ("hydra", "omegaconf"), "click": ("click",), "absl": ("absl.app", "absl.flags"), "fire": ("fire",),
         "jsonargparse": ("jsonargparse",), "lightning": ("jsonargparse",), "tyro": ("tyro",)}  # fmt: skip


def main() -> None:
    for module in HEAVY.get(SCRIPT.stem.partition("_")[0], ()):
        __import__(module)
    lines = json.load(sys.stdin)
    if SCRIPT.stem.startswith("hydra"):
        _answer(lines[0])  # half a second of its first run is the tables of its grammar, which later runs have
    answers = [_run(line) for line in lines]
    json.dump(answers, sys.stdout)


def _run(line: list[str]) -> object:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        answer = _answer(line)
        with os.fdopen(writing, "w") as file:
            json.dump(answer, file)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    os.waitpid(child, 0)
    return json.loads(text)


def _answer(line: list[str]) -> object:
    shown = io.StringIO()
    sys.argv = [str(SCRIPT), *line]
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            return {"failed": shown.getvalue()[-600:] or str(ended.code)}
    except BaseException:
        return {"failed": traceback.format_exc()[-600:]}
    found = [text.removeprefix("RESULT ") for text in shown.getvalue().splitlines() if text.startswith("RESULT ")]
    return {"seen": json.loads(found[0])} if found else {"failed": shown.getvalue()[-600:]}


main()
