"""The only room that knows MLX, its model libraries and the tokenizer library. Importing it imports none of them."""
