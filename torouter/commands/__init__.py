"""One module per subcommand of `torouter`: HELP, `configure(parser)` and `run(arguments)`, which returns an exit code.

Modules are imported for every call of the command line, so whatever is heavy is imported inside `run`.
"""
