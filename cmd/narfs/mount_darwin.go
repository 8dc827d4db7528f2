package main

// mountName is what Finder shows as the volume.
func mountName(string) string { return "narfs" }
