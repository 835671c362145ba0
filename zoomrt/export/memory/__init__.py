"""How much memory a build will take, told before it takes it."""
