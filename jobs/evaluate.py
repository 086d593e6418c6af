"""Tell the loss of a data set under a fitted model, on Ray.

    ray job submit --working-dir . -- python jobs/evaluate.py s3://bucket/vectors \
        s3://bucket/model --output s3://bucket/evaluation.json

It prints a table, and writes the same figures as JSON where --output says so.
"""

from ray_kmeans import cli

if __name__ == "__main__":
    cli.job("evaluate")
