import json

import click


@click.command()
@click.argument("data")
@click.option("--amp/--no-amp", default=False)
@click.option("--log", is_flag=True)
@click.option("--pin", type=bool, default=True)
@click.option("-b", "--batch-size", default=1)
@click.option("--lr", type=float)
@click.option("--name", default="x")
@click.option("--size", nargs=2, type=int, default=(1, 2))
@click.option("--tags", multiple=True)
def main(**values):
    print("RESULT", json.dumps(values))


main()
