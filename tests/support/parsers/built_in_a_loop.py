import argparse
import json
from ast import literal_eval

DEFAULTS = {"lr": 0.1, "amp": False, "name": "x", "layers": [1], "batch_size": 1, "seed": None}


def value(text):
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text


parser = argparse.ArgumentParser()
parser.add_argument("--log", action="store_true")
for name, default in DEFAULTS.items():
    parser.add_argument(f"--{name}", type=value, default=default)
print("RESULT", json.dumps(vars(parser.parse_args())))
