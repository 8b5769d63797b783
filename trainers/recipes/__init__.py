"""Recipes: YAML files that name a published training, and what runs them."""

from .launch import launch_line
from .prompts import PROMPTS, get_prompt
from .run import StepResult, dry_run_recipe, run_recipe
from .schema import Recipe, RecipeError, read_recipe
from .sources import FORMATS
from .yaml_text import YamlError, load_yaml

__all__ = [
    "FORMATS",
    "PROMPTS",
    "Recipe",
    "RecipeError",
    "StepResult",
    "YamlError",
    "dry_run_recipe",
    "get_prompt",
    "launch_line",
    "load_yaml",
    "read_recipe",
    "run_recipe",
]
