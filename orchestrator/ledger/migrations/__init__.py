"""Steps from each schema to the next. A step never changes once it is released, so it names its columns itself."""
