"""Stage `score`: one loop scores shards of images, for samples, validation and evaluation."""
