"""The pages a person looks at. Eyes only: they read the runtime's view and change nothing."""
