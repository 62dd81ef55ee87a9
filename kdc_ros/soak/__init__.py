"""An endurance test of the real node: `python -m kdc_ros.soak --frames 10000`."""
