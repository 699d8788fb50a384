"""Model repositories: config.pbtxt, the contract, names and folders."""
