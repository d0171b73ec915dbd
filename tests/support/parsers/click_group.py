import json

import click


@click.group()
@click.option("--lr", type=float, default=0.1)
@click.option("--verbose/--quiet", default=False)
@click.option("--tags", multiple=True)
@click.pass_context
def cli(context, lr, verbose, tags):
    context.obj = {"group_lr": lr, "verbose": verbose, "tags": tags}


@cli.command()
@click.argument("data")
@click.option("--lr", type=float, default=0.2)
@click.option("--amp/--no-amp", default=True)
@click.option("--depth", type=int)
@click.pass_obj
def train(above, **values):
    print("RESULT", json.dumps(above | values))


cli()
