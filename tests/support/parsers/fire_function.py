import json

import fire


def main(data, lr=0.1, amp=True, layers=(1,), name="x", seed=3):
    print("RESULT", json.dumps(locals()))


if __name__ == "__main__":
    fire.Fire(main)
