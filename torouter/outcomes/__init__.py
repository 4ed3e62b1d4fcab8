"""What experts are worth: outcome tables, and how they are collected and scored."""
