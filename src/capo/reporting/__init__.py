"""HTML pages of runs, evaluations and studies, with their charts. Pages run no scripts and load nothing."""
