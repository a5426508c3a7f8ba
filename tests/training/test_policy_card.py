"""The model card has the Hub's front matter and describes the policy's origin."""

import pytest
import yaml
from huggingface_hub import ModelCard

from capo.recipe import parse_recipe
from capo.training.policy_card import Origin, policy_card

ROW = {"step": 3, "win_rate/red": 0.625, "mean_reward/red": 1.5, "win_rate": 0.625}


def card(
    checkpoint="org/model", validation=ROW, identity="org/model@main", prompts="hub:org/prompts", **train
):
    recipe = parse_recipe(
        {
            "name": "mine",
            "model": {"checkpoint": checkpoint},
            "prompts": {"source": prompts},
            "rewards": [{"name": "red", "checkpoint": checkpoint}, {"name": "blue"}],
            "train": {
                "beta": 7,
                "per_device_batch_size": 1,
                "validation_prompts": {"source": "/home/me/validation.txt"},
                **train,
            },
            "evaluate": {"prompts": {"source": "other.txt"}},
        }
    )
    reference = {"checkpoint": identity, "weights": "abc"}
    return policy_card(recipe, Origin(3, validation, reference, {"pairs": "def"}))


@pytest.mark.parametrize(("adaptation", "relation"), [("lora", "adapter"), ("full", "finetune")])
def test_the_front_matter_is_the_hubs(adaptation, relation):
    data = ModelCard(card(adaptation=adaptation)).data
    assert (data.library_name, data.pipeline_tag) == ("diffusers", "text-to-image")
    assert (data.base_model, data.base_model_relation) == ("org/model", relation)
    assert ("lora" in data.tags) == (adaptation == "lora")


def test_the_card_lists_recipe_data_and_metrics():
    text = card()
    assert "| red | 62.5% | 1.5 |" in text
    made, recipe = (yaml.safe_load(part.partition("```")[0]) for part in text.split("```yaml\n")[1:])
    assert made == {"reference": {"checkpoint": "org/model@main", "weights": "abc"}, "data": {"pairs": "def"}}
    assert recipe["train"]["beta"] == 7
    assert [reward["name"] for reward in recipe["rewards"]] == ["red", "blue"]
    assert "null" not in text
    assert "[]" not in text
    assert "no validation" in card(validation=None)


def test_local_paths_do_not_appear(tmp_path):
    (tmp_path / "base").mkdir()
    text = card(str(tmp_path / "base"), identity="blake2b:abc", prompts="/home/me/prompts.txt")
    assert str(tmp_path) not in text
    assert "/home/me" not in text
    assert ModelCard(text).data.base_model is None


def test_the_path_of_a_missing_folder_is_not_a_hub_id():
    text = card("models/base", identity="blake2b:abc")
    assert ModelCard(text).data.base_model is None
    assert 'from_pretrained("../base", dtype=torch.float32)' in text


def test_the_front_matter_has_data_sets_and_metrics_but_no_empty_fields():
    front, validation = (card(validation=row).split("---\n")[1] for row in (ROW, None))
    for text in (front, validation):
        assert not [key for key, value in yaml.safe_load(text).items() if value in (None, [], {})]
    data = ModelCard(card()).data
    assert data.datasets == ["org/prompts"]
    rates = {result.metric_name: result.metric_value for result in data.eval_results}
    assert rates == {
        "win-rate over the base, mean of the training rewards": 0.625,
        "win-rate over the base, red": 0.625,
    }
    assert ModelCard(card(validation=None)).data.eval_results is None


def test_speed_settings_do_not_appear():
    assert "per_device_batch_size" not in card()
