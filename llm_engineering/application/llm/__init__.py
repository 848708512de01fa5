"""Ask language models: prompts, chat templates, structured replies, cached batches, judges."""
