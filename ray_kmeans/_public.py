"""What a user may import from the package; nothing inside imports it."""

from ray_kmeans import errors as errors
from ray_kmeans.config import RunConfig as RunConfig
from ray_kmeans.data.opening import open_source as open_source
from ray_kmeans.estimator import KMeansClustering as KMeansClustering
from ray_kmeans.loading import import_centers as import_centers
from ray_kmeans.loading import load_model as load_model
from ray_kmeans.observe.monitors import EarlyStopping as EarlyStopping
from ray_kmeans.observe.monitors import Monitor as Monitor
from ray_kmeans.predictor import Predictor as Predictor
