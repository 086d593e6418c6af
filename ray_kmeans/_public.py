"""All that a user may import from the package; nothing inside imports this module."""

from ray_kmeans import errors as errors
from ray_kmeans.algorithm.state import FitState as FitState
from ray_kmeans.algorithm.state import Iteration as Iteration
from ray_kmeans.algorithm.state import Stop as Stop
from ray_kmeans.config import RunConfig as RunConfig
from ray_kmeans.data.opening import open_source as open_source
from ray_kmeans.data.sharding import Block as Block
from ray_kmeans.data.sharding import Layout as Layout
from ray_kmeans.data.sharding import cut as cut
from ray_kmeans.data.source import Source as Source
from ray_kmeans.estimator import KMeansClustering as KMeansClustering
from ray_kmeans.html_report import report as report
from ray_kmeans.loading import import_centers as import_centers
from ray_kmeans.loading import load_model as load_model
from ray_kmeans.observe.monitors import EarlyStopping as EarlyStopping
from ray_kmeans.observe.monitors import Monitor as Monitor
from ray_kmeans.predictor import Predictor as Predictor
from ray_kmeans.workflows.drift import ClusterDrift as ClusterDrift
from ray_kmeans.workflows.drift import Drift as Drift
from ray_kmeans.workflows.evaluate import Evaluation as Evaluation
from ray_kmeans.workflows.label import LabelCounts as LabelCounts
from ray_kmeans.workflows.make_dataset import make_dataset as make_dataset
from ray_kmeans.workflows.tf_compat import ModelFnOps as ModelFnOps
