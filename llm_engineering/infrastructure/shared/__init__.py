"""What several adapters share: retries, the OpenAI stream, index payloads, trace queue."""
