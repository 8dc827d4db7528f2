package main

// mountName is what Finder shows as the volume.
func mountName(string) string { return "narfs" }

// mountNamespace is the same for all processes.
func mountNamespace(int) string { return "" }
