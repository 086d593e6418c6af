"""Choose the number of clusters of a data set on Ray.

    ray job submit --working-dir . -- python jobs/choose_k.py s3://bucket/vectors \
        s3://bucket/models --ks 100 200 400

Run it again with the same directory and it makes only what is missing.
"""

from ray_kmeans import cli

if __name__ == "__main__":
    cli.job("choose-k")
