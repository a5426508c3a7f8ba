"""The pool: the base's scores of the prompts of a further round, that it is calibrated against (Eq. 7).

    pool/REWARD.parquet    a row a sample of the base: prompt_id, sample, score, error and truncated

They come from the round before, and stay here for the next: a round needs no other directory.
"""

from capo.recipe import Recipe
from capo.sampling.collect_prompts import read_prompts
from capo.sampling.start import find_start
from capo.store.run_directory import Artifact, Run, WorkspaceError


def pool(recipe: Recipe, run: Run, artifact: Artifact) -> None:
    """Fill `pool/`.

    Raises `WorkspaceError` when the round before does not have all prompts of this one.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    assert recipe.start is not None
    start = find_start(recipe, recipe.start)
    known = {prompt.prompt_id: prompt.text for prompt in read_prompts(start.run)}
    prompts = read_prompts(run)
    for prompt in prompts:
        if known.get(prompt.prompt_id) != prompt.text:
            raise WorkspaceError(
                f"start.run: {start.run.path} has no samples of the prompt {prompt.text!r}; a round has the "
                "prompts of the round before, or some of them: set prompts and seed likewise"
            )
    ids, count = pa.array([prompt.prompt_id for prompt in prompts]), 0
    for reward in recipe.training_rewards:
        scores = start.pool_scores(reward.name)
        scores = scores.filter(pc.is_in(scores["prompt_id"], ids)).combine_chunks()
        artifact.write_table(f"{reward.name}.parquet", scores)
        count = len(scores)
    artifact.commit({"prompts": len(prompts), "samples": count, "round": start.round})
