"""Make a model of centers that come from elsewhere; it labels, evaluates and exports without a fit.

    ray job submit --working-dir . -- python jobs/import_centers.py s3://bucket/centers.parquet \
        s3://bucket/imported --distance-metric squared_euclidean

The last line that it prints is where the model is.
"""

from ray_kmeans import cli

if __name__ == "__main__":
    cli.job("import-centers")
