"""Write the cluster of every row of a data set to Parquet, on Ray.

    ray job submit --working-dir . -- python jobs/predict.py s3://bucket/vectors \
        s3://bucket/model s3://bucket/labelled --keep-columns id

The output has one file per block of the data and is complete once its _manifest.json is there.
"""

from ray_kmeans import cli

if __name__ == "__main__":
    cli.job("predict")
