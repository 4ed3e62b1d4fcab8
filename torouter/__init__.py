"""torouter: a trained router sends each query to the LLM expert that is expected to answer it best."""
