"""Make one HTML page of a fitted model, with some rows of its data.

    ray job submit --working-dir . -- python jobs/report.py s3://bucket/model \
        s3://bucket/report.html --data s3://bucket/vectors --show text

The page holds all it needs: it can be mailed, or opened where there is no network.
"""

from ray_kmeans import cli

if __name__ == "__main__":
    cli.job("report")
