"""The text of a recipe with another β, with the user's comments where possible."""

from pathlib import Path

import yaml

from capo.recipe import Recipe, RecipeError, dump_recipe, load_recipe
from capo.store import atomic


def tuned_recipe(recipe: Recipe, path: Path) -> str:
    """Return YAML that loads from `path` as `recipe`.

    It is the file that the recipe was read from with another `train.beta`, unless other settings were changed
    too, or paths in it would not be found from `path`; then it has every field written out.
    """
    if recipe.written is not None and (text := _with_beta(recipe.written, recipe.train.beta)) is not None:
        # Loaded from a file beside the target, since relative paths depend on the folder.
        trial = path.with_name(f"{atomic.TEMPORARY}trial-{path.name}")
        try:
            trial.write_text(text, encoding="utf-8")
            if load_recipe(trial) == recipe:
                return text
        except RecipeError:
            pass
        finally:
            trial.unlink(missing_ok=True)
    return dump_recipe(recipe)


def _with_beta(text: str, beta: float) -> str | None:
    """Replace the value of `train.beta` in the text of a recipe; None if it is not written there plainly."""
    root = yaml.compose(text)
    train = _child(root, "train")
    node = _child(train, "beta")
    if not isinstance(node, yaml.ScalarNode):
        return None
    start, end = node.start_mark.index, node.end_mark.index
    return f"{text[:start]}{beta:.12g}{text[end:]}"


def _child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)
