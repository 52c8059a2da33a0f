"""The only room that knows MLX, its model libraries and the tokenizer library. Importing this package imports nothing."""
