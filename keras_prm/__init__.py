"""keras_prm."""
