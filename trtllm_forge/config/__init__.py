"""What a build is asked for: the models of ``forge.yaml`` and how their values are found."""
