"""The main job: from shards of measurements to shards of images."""
