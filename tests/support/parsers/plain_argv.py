import json
import sys

print("RESULT", json.dumps(dict(zip(sys.argv[1::2], sys.argv[2::2]))))
