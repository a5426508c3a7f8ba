"""Comparisons of settings: a study's rows, each run with several seeds, put into one table.

from capo.compare import load_study
from capo.compare.running import run_study

outcome = run_study(load_study("table2"), Path("studies/table2"))
"""

from capo.compare.study import Row, Study, StudyError, load_study, shipped_studies

__all__ = ["Row", "Study", "StudyError", "load_study", "shipped_studies"]
