import argparse
import json

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--verbose", action="store_true")
parser.add_argument("--only", nargs="+", default=[])
commands = parser.add_subparsers(dest="command")
train = commands.add_parser("train")
train.add_argument("data")
train.add_argument("--lr", type=float, default=0.2)
train.add_argument("--amp", action="store_true")
train.add_argument("--layers", type=int, nargs="+")
test = commands.add_parser("test")
test.add_argument("--depth", type=int)
print("RESULT", json.dumps(vars(parser.parse_args())))
