import argparse
import json


def str2bool(text):
    if text.lower() in ("yes", "true", "t", "1"):
        return True
    if text.lower() in ("no", "false", "f", "0"):
        return False
    raise argparse.ArgumentTypeError("a boolean is true or false")


parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("--amp", action="store_true")
parser.add_argument("--no-log", dest="log", action="store_false")
parser.add_argument("--cache", action=argparse.BooleanOptionalAction, default=True)
parser.add_argument("--pin", type=str2bool, default=False)
parser.add_argument("--trap", type=bool, default=True)
parser.add_argument("-b", "--batch-size", type=int, default=1)
parser.add_argument("--lr", type=float)
parser.add_argument("--name", default=None)
parser.add_argument("--layers", type=int, nargs="+")
parser.add_argument("--size", type=int, nargs=2, default=[1, 2])
parser.add_argument("--tags", action="append")
parser.add_argument("--folds", nargs="*", default=[])
parser.add_argument("--config", type=json.loads, default={})
print("RESULT", json.dumps(vars(parser.parse_args())))
