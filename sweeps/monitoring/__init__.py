"""What a running sweep shows: terminal, Prometheus and Grafana, MLflow and Weights & Biases."""
