"""One verb a module (fit, label, evaluate, ...), shared by the estimator and the jobs."""
