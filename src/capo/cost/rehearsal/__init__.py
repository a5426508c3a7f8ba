"""`capo rehearse`: a run of two prompts through all stages, and what it says about the whole run.

| question                                        | module         |
|-------------------------------------------------|----------------|
| Which numbers differ from the recipe's?         | `small_recipe` |
| How long did every kind of work take?           | `meter`        |
| How long will the whole run take at that speed? | `projection`   |
"""
