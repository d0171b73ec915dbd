import argparse
import dataclasses
import json


@dataclasses.dataclass
class Config:
    lr: float = 0.1
    amp: bool = False
    name: str = "x"
    batch_size: int = 1


def parser_of(kind):
    parser = argparse.ArgumentParser()
    for item in dataclasses.fields(kind):
        if isinstance(item.default, bool):
            parser.add_argument("--" + item.name, action="store_true")
        else:
            parser.add_argument("--" + item.name, type=type(item.default), default=item.default)
    return parser


print("RESULT", json.dumps(vars(parser_of(Config).parse_args())))
