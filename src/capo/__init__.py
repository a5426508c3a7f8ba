"""Calibrated multi-preference optimization for text-to-image diffusion models.

The public names are listed in `__init__.pyi` and imported on first use, so that `import capo` is fast:

    from capo import calibrate, BradleyTerry, select_frontier
    from capo import load_recipe, run
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
