import json

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_bool("amp", False, "")
flags.DEFINE_boolean("cache", True, "")
flags.DEFINE_integer("batch_size", 1, "")
flags.DEFINE_float("lr", None, "")
flags.DEFINE_string("name", "x", "")
flags.DEFINE_list("layers", ["1"], "")
flags.DEFINE_multi_string("tags", [], "")
NAMES = ("amp", "cache", "batch_size", "lr", "name", "layers", "tags")


def main(argv):
    print("RESULT", json.dumps({name: FLAGS[name].value for name in NAMES} | {"rest": argv[1:]}))


if __name__ == "__main__":
    app.run(main)
