"""The mathematics of Calibrated Preference Optimization: pure functions on torch tensors.

Leading dimensions `...` are batch dimensions, and results stay on the device of their inputs. The
modules follow the paper from scores to models:

    calibration      raw scores -> expected win-rates         Eqs. 2, 7, 28
    selection        rewards -> chosen and rejected sets      Sec. 4.3
    clear_pairs      pairs -> whether more samples are needed
    weighting        log-SNR -> loss weight                   Sec. 4.4, Eq. 26
    objective        errors -> implicit reward -> loss        Eqs. 8, 22, 23
    objective_table  the objectives by name
    soup             several policies -> one                  Eq. 29
    low_rank         the same for LoRA policies
    winrate          scores of two models -> win-rate         App. B.2
    significance     win-rates -> how likely by chance
    diversity        images of a prompt -> how different they are

The names are listed in `__init__.pyi` and imported on first use, so that parts that need no tensors
do not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
