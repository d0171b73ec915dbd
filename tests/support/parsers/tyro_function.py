import json
from typing import List, Optional

import tyro


def main(
    amp: bool = False,
    cache: bool = True,
    batch_size: int = 1,
    lr: float = 0.1,
    name: str = "x",
    title: Optional[str] = "y",
    seed: Optional[int] = 3,
    layers: List[int] = [1],  # noqa: B006
):
    print("RESULT", json.dumps(locals()))


tyro.cli(main)
