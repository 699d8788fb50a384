"""Everything for delivery: manifest, verification, package, SBOM and CI workflows."""
