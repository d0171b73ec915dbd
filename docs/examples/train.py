"""A small training loop: nothing but the standard library, so that it runs anywhere at once."""

import argparse
import math
import os
import random
import time


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seconds-per-epoch", type=float, default=1.2)
    options = parser.parse_args()

    print(f"training with lr={options.lr} on {os.uname().nodename}")
    weight, target = 0.0, 3.0
    for epoch in range(1, options.epochs + 1):
        deadline = time.monotonic() + options.seconds_per_epoch
        while time.monotonic() < deadline:
            gradient = 2 * (weight - target) + random.gauss(0, 0.1)
            weight -= options.lr * gradient / 1000
        print(f"epoch {epoch:2d}  loss {math.pow(weight - target, 2):.6f}")
    print(f"final weight {weight:.4f}")


if __name__ == "__main__":
    main()
