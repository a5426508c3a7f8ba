"""Studies: a table of settings, where every row runs with several seeds.

from capo.studies import load_study
from capo.studies.run_study import run_study

outcome = run_study(load_study("table2"), Path("studies/table2"))
"""

from capo.studies.study import Row, Study, StudyError
from capo.studies.study_file import load_study, shipped_studies

__all__ = ["Row", "Study", "StudyError", "load_study", "shipped_studies"]
