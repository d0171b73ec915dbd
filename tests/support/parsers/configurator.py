import sys
from ast import literal_eval

for arg in sys.argv[1:]:
    if "=" not in arg:
        raise SystemExit(f"a file, {arg!r}, is not there")
    assert arg.startswith('--')  # fmt: skip
    key, val = arg.split("=", 1)
    key = key[2:]
    if key not in globals():
        raise ValueError(f"Unknown config key: {key}")
    try:
        attempt = literal_eval(val)
    except (SyntaxError, ValueError):
        attempt = val
    assert type(attempt) is type(globals()[key])
    globals()[key] = attempt
