import dataclasses
import json
from dataclasses import dataclass

import tyro


@dataclass
class Config:
    lr: float = 0.1
    amp: bool = True
    name: str = "x"
    batch_size: int = 1


print("RESULT", json.dumps(dataclasses.asdict(tyro.cli(Config))))
