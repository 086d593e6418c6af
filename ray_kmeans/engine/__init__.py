"""The distributed algorithm: pool, worker, shard and fit loop. It never imports Ray."""
