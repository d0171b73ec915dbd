import json
from pathlib import Path

lr = 0.1
amp = True
name = "x"
layers = [1]
batch_size = 1
seed = None
config_keys = [k for k, v in globals().items() if not k.startswith("_") and isinstance(v, (int, float, bool, str))]
exec((Path(__file__).parent / "configurator.py").read_text())
print(
    "RESULT",
    json.dumps({"lr": lr, "amp": amp, "name": name, "layers": layers, "batch_size": batch_size, "seed": seed}),
)
