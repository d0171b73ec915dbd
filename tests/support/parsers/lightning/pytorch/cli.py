"""Lightning's command line as it builds it with jsonargparse: sub-commands whose options are those of classes.

The real one needs PyTorch, which is too large for a test; the parser is the real jsonargparse.
"""

from typing import Any

from jsonargparse import ArgumentParser


class LightningCLI:
    """Reads `fit --model.lr=0.1 --trainer.max_epochs=3`."""

    def __init__(self, model: type) -> None:
        fit = ArgumentParser()
        fit.add_class_arguments(model, "model")
        fit.add_argument("--trainer.max_epochs", type=int, default=1)
        parser = ArgumentParser()
        parser.add_argument("--seed_everything", type=bool | int, default=True)
        commands = parser.add_subcommands()
        commands.add_subcommand("fit", fit)
        given: Any = parser.parse_args()
        self.values = {
            **vars(given.fit.model),
            "max_epochs": given.fit.trainer.max_epochs,
            "seed": given.seed_everything,
        }
