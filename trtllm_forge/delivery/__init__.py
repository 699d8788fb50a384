"""What leaves the machine: manifest, verification, package, SBOM and CI workflows."""
