package casefold

// The parts of IsCaseInsensitive that a file system without case folding cannot show whole.

// ProbeExisting is probeExisting.
func ProbeExisting(dir string, cause error) (bool, error) { return probeExisting(dir, cause) }

// HasOtherCase is hasOtherCase.
func HasOtherCase(dir, name string) (bool, error) { return hasOtherCase(dir, name) }
