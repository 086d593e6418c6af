"""Tell what became of the clusters of an old model in a new one, on Ray.

    ray job submit --working-dir . -- python jobs/drift.py s3://bucket/model \
        s3://bucket/imported s3://bucket/vectors --json

It prints all figures as JSON, or without --json a table.
"""

from ray_kmeans import cli

if __name__ == "__main__":
    cli.job("drift")
