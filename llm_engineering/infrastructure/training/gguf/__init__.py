"""Write adapters and bases as GGUF files for llama.cpp."""
