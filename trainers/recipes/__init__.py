"""Recipes: YAML files that name a published training, and what runs them."""

from .launch import launch_line
from .prompts import PROMPTS, TrainingPrompt, get_prompt, with_prompt
from .run import StepResult, dry_run_recipe, run_recipe
from .schema import Recipe, RecipeError, load_yaml, read_recipe
from .sources import FORMATS

__all__ = [
    "FORMATS",
    "PROMPTS",
    "Recipe",
    "RecipeError",
    "StepResult",
    "TrainingPrompt",
    "dry_run_recipe",
    "get_prompt",
    "launch_line",
    "load_yaml",
    "read_recipe",
    "run_recipe",
    "with_prompt",
]
