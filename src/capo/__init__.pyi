# The public names, each written once: `__init__.py` reads them from here.

from .engine.events import StageResult as StageResult
from .engine.events import TrainingStep as TrainingStep
from .engine.events import ValidationStep as ValidationStep
from .method.calibration import BradleyTerry as BradleyTerry
from .method.calibration import PowerRatio as PowerRatio
from .method.calibration import Threshold as Threshold
from .method.calibration import calibrate as calibrate
from .method.objective import capo_loss as capo_loss
from .method.objective import dpo_loss as dpo_loss
from .method.objective import implicit_reward as implicit_reward
from .method.objective import ipo_loss as ipo_loss
from .method.selection import Selection as Selection
from .method.selection import lower_frontier as lower_frontier
from .method.selection import select_best_worst as select_best_worst
from .method.selection import select_frontier as select_frontier
from .method.selection import select_sum as select_sum
from .method.selection import upper_frontier as upper_frontier
from .method.soup import slerp as slerp
from .method.soup import soup as soup
from .method.weighting import flow_log_snr as flow_log_snr
from .method.weighting import flow_sigmoid_weight as flow_sigmoid_weight
from .method.weighting import flow_time as flow_time
from .method.weighting import sigmoid_weight as sigmoid_weight
from .method.winrate import bootstrap_interval as bootstrap_interval
from .method.winrate import win_rate as win_rate
from .pipeline import RunResult as RunResult
from .pipeline import run as run
from .recipe import Recipe as Recipe
from .recipe import RecipeError as RecipeError
from .recipe import load_recipe as load_recipe
from .store.errors import WorkspaceError as WorkspaceError
from .store.run_directory import Run as Run

__version__: str
