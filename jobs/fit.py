"""Cluster the rows of a data set on Ray.

    ray job submit --working-dir . -- python jobs/fit.py s3://bucket/vectors s3://bucket/model \
        --num-clusters 1000 --preset best

Run it again with the same model directory and it continues from the last checkpoint there.
"""

from ray_kmeans import cli

if __name__ == "__main__":
    cli.job("fit")
