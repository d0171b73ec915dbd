"""Outputs: files of a run that stay. Found once its command has ended, sent while the tree is kept as it is."""

from taskyard_agent.outputs.plan import Limits, OutputPlan, hold_tree, plan_of, planned, release_tree
from taskyard_agent.outputs.uploads import Upload, Uploads

__all__ = ["Limits", "OutputPlan", "Upload", "Uploads", "hold_tree", "plan_of", "planned", "release_tree"]
