import json
from typing import List, Optional

from lightning.pytorch.cli import LightningCLI


class Model:
    def __init__(self, lr: float = 0.1, amp: bool = True, name: str = "x", layers: Optional[List[int]] = None):
        self.values = {"lr": lr, "amp": amp, "name": name, "layers": layers}


print("RESULT", json.dumps(LightningCLI(Model).values))
