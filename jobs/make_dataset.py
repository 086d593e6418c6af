"""Make a synthetic data set, to try a cluster out, on Ray.

    ray job submit --working-dir . -- python jobs/make_dataset.py s3://bucket/synthetic \
        --num-rows 1000000 --num-features 128 --num-clusters 1000

Run it again and it goes on with the files that are missing.
"""

from ray_kmeans import cli

if __name__ == "__main__":
    cli.job("make-dataset")
