"""What a connector author touches. HTTP, never Kafka."""
