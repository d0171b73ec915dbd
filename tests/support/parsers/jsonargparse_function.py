import json
from typing import List, Optional

from jsonargparse import CLI


def main(
    amp: bool = False,
    batch_size: int = 1,
    lr: float = 0.1,
    name: str = "x",
    title: Optional[str] = "y",
    seed: Optional[int] = 3,
    layers: List[int] = [1],  # noqa: B006
    tags: Optional[List[str]] = None,
):
    print("RESULT", json.dumps(locals()))


CLI(main)
