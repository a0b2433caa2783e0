"""From an image as its device made it to a tensor as a study asks for it, by name."""

from fedward_client.harmonize.recipe import Recipe, recipe

__all__ = ["Recipe", "recipe"]
