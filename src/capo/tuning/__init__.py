"""`capo tune`: find β by a sweep of short trainings that share prompts, samples, scores and pairs.

RUN/                     an ordinary run directory with everything up to the pairs, and the base's validation
RUN/tune/beta-10/        the run directory of one value, with its training
RUN/tune/results.json    the validations of all values, and the choice
RUN/tune/index.html      the same as a page with curves
RUN/tune/recipe.yaml     the recipe with the chosen value
"""
