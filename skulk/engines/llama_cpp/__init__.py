"""The engine `llama_cpp`: GGUF models through the low-level interface of llama-cpp-python."""
