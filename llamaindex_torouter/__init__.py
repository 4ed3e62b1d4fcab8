"""torouter for LlamaIndex: `RoutedLLM`, `TGILLM` and `TORouterSelector`."""
