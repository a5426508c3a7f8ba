"""Comparisons of settings: a study's rows, each run with several seeds, put into one table.

from capo.studies import load_study
from capo.studies.running import run_study

outcome = run_study(load_study("table2"), Path("studies/table2"))
"""

from capo.studies.study import Row, Study, StudyError, load_study, shipped_studies

__all__ = ["Row", "Study", "StudyError", "load_study", "shipped_studies"]
