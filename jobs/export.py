"""Write a fitted model for others: as an ONNX graph or SavedModel, or its centers alone.

    ray job submit --working-dir . -- python jobs/export.py s3://bucket/model \
        s3://bucket/centers.parquet --format parquet

The last line that it prints is where the export is.
"""

from ray_kmeans import cli

if __name__ == "__main__":
    cli.job("export")
