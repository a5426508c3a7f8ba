"""The model card of a soup: what was merged, how, and how to load it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from capo.diffusion.model_card import card, front_matter, kind, loading, plain
from capo.diffusion.plain_pipeline import Base
from capo.recipe import LoraSection


def soup_card(record: Mapping[str, Any]) -> str:
    """Return the model card of a soup with this `capo.json`: Markdown with the Hub's front matter."""
    model, adaptation = record["model"], record["adaptation"]
    loras = tuple(LoraSection(**lora) for lora in model.get("loras", ()))
    base = Base(model["checkpoint"], record["base"], record.get("pipeline"), model.get("config"), loras)
    merged = record["soup"]
    how = {name: value for name, value in merged.items() if name not in ("policies", "weights")}
    text = f"""\
{kind(base, adaptation)}: a soup of {len(merged["policies"])} policies that were tuned from it by Calibrated
Multi-Preference Optimization, merged without further training.

{loading(base, adaptation, record["model"], record.get("left_out", []), [])}

## Merged

{_table(merged["policies"], merged["weights"])}

```yaml
{plain(how)}```
"""
    return card("Soup", front_matter(base, adaptation, tags=["merge"]), text)


def _table(policies: Sequence[Mapping[str, str]], weights: Sequence[float]) -> str:
    """A table with one row per policy: its name, its share of the weights, and the digest of its folder."""
    rows = [
        f"| {_name(Path(policy['folder']))} | {weight / sum(weights):.1%} | `{policy['identity']}` |"
        for policy, weight in zip(policies, weights, strict=True)
    ]
    return "\n".join(["| policy | weight | contents |", "|---|---|---|", *rows])


def _name(folder: Path) -> str:
    """The name of a policy's folder, or of its run; paths mean nothing elsewhere."""
    return folder.parent.parent.name if folder.parts[-2:] == ("train", "best") else folder.name
