import argparse
import json
from pathlib import Path

OPTIONS = json.loads((Path(__file__).parent / "options.json").read_text())
parser = argparse.ArgumentParser()
for option in OPTIONS:
    getattr(parser, "add_" + "argument")(option.pop("flag"), **option)
print("RESULT", json.dumps(vars(parser.parse_args())))
